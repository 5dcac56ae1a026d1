"""Your own loss and your own CSV: regression that forgives outliers, SGD's law against Gibbs."""

from pathlib import Path

import jax.numpy as jnp

import jaxsde as js


def pseudo_huber(params, example):  # params and example may be any pytrees; the result is one number
    x, y = example
    residual = x @ params["slope"] + params["offset"] - y
    return jnp.sqrt(1 + residual**2) - 1


table = js.problems.load(file=Path(__file__).with_name("rubber.csv"), target="extension_mm")
start = {"slope": jnp.zeros(len(table.features)), "offset": jnp.zeros(())}
problem = js.finite_sum(pseudo_huber, (table.x, table.y), start)

sgd = js.sgd(problem, learning_rate=0.1, batch_size=4)
statistics = js.verdict_statistics(problem)
run = js.simulate(
    sgd, start, key=js.key(1), chains=1024, burn_in=400, steps=1200, every=12, statistics=statistics
)
print(table.features, "->", problem.unravel(js.theory.minimum(problem)))
print(js.is_gibbs(run, problem))
