"""A sweep over learning rates in one compiled program: the variance of SGD against its SDE and the edge of stability."""

import jax
import jax.numpy as jnp

import jaxsde as js

problem = js.potential(lambda x: 0.5 * x @ jnp.array([[1.0, 0.3], [0.3, 2.0]]) @ x, jnp.zeros(2))
x0 = jnp.zeros((4096, 2))


def variance(learning_rate):
    chain = js.sgd(problem, learning_rate=learning_rate, sampling="gaussian")
    return js.advance(chain, x0, key=js.key(0), steps=200).var(axis=0)


rates = jnp.array([0.05, 0.1, 0.2, 0.4, 0.8])
for rate, measured in zip(rates, jax.jit(jax.vmap(variance))(rates), strict=True):
    sgd = js.sgd(problem, learning_rate=rate)
    theory = js.theory.stationary_covariance(sgd).diagonal()
    limit = js.theory.stationary_covariance(js.sgd_sde(problem, learning_rate=rate)).diagonal()
    print(f"eta {rate:.2f}   measured {measured}   SGD {theory}   SDE {limit}")
print("d variance / d eta at 0.2:", jax.jacfwd(variance)(0.2))
print("stable below eta =", js.theory.stability_edge(problem))
