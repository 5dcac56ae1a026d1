"""A double well whose noise grows with x: the measured density, the exact one, Gibbs, and the verdict."""

import jax.numpy as jnp
import numpy as np

import jaxsde as js

problem = js.potential(lambda x: (x[0] ** 2 - 1) ** 2 / 4, jnp.ones(1), noise_covariance=lambda x: 0.2 + x**2)
sde = js.sgd_sde(problem, learning_rate=0.3)
chain = js.integrate(sde, dt=0.02)

edges = np.linspace(-2.4, 2.4, 49)
start = np.where(np.arange(4096) % 2, 1.0, -1.0)[:, None]  # half the chains in each well
run = js.simulate(
    chain, start, key=js.key(0), chains=4096, burn_in=2000, steps=2000, every=20,
    statistics={**js.verdict_statistics(problem), "histogram": js.Histogram(edges)},
)  # fmt: skip

temperature = js.metrics.fit_temperature(run, problem).value
middle = (edges[1:] + edges[:-1]) / 2
measured = run["histogram"].value / np.diff(edges)
exact = np.exp(js.theory.stationary_density(sde).log_density(middle))
gibbs = np.exp(js.theory.gibbs(problem, temperature).log_density(middle[:, None]))
for i in range(24, 44, 3):
    print(f"x = {middle[i]:.2f}   measured {measured[i]:.3f}   exact {exact[i]:.3f}   Gibbs {gibbs[i]:.3f}")
print(js.is_gibbs(run, problem))
