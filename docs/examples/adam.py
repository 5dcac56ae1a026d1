"""Any optax optimiser as a chain: plain SGD, heavy-ball momentum and Adam on the same data, at the same learning rate."""

import functools

import jax.numpy as jnp
import optax

import jaxsde as js


def example_loss(params, example):
    x, y = example
    return 0.5 * (x @ params - y) ** 2


table = js.problems.load("gaussian_regression", rows=500, dim=3, spectrum=(0.2, 1.0, 3.0))
problem = js.finite_sum(example_loss, (table.x, table.y), jnp.zeros(3))
optimizers = {"sgd": None, "momentum": functools.partial(optax.sgd, momentum=0.9), "adam": optax.adam}
for name, optimizer in optimizers.items():
    chain = js.sgd(problem, learning_rate=0.01, batch_size=8, optimizer=optimizer)
    run = js.simulate(
        chain, problem.start, key=js.key(0), chains=512, burn_in=2000, steps=1000, every=20,
        statistics={"loss": js.MeanLoss(problem), "covariance": js.Covariance()},
    )  # fmt: skip
    temperature = js.metrics.fit_temperature(run, problem)
    print(f"{name:<9} mean loss {run['loss']}   T* {temperature}   KL {js.metrics.kl_to_gibbs(run, problem)}")
