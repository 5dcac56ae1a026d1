"""Your own loss for the command: jaxsde run docs/examples/rubber.toml --plugin docs/examples/plugin.py

A plugin defines example_loss(params, example), or loss(params) with params and perhaps noise_covariance.
"""

import jax.numpy as jnp

params = {"slope": jnp.zeros(2), "offset": jnp.zeros(())}  # the initial point; zeros, one per feature, if left out


def example_loss(params, example):
    x, y = example
    residual = x @ params["slope"] + params["offset"] - y
    return jnp.sqrt(1 + residual**2) - 1
