"""Statistics of anything: js.of(f, statistic) watches f(position), a number or a vector, with an error over groups."""

import jax.numpy as jnp
import numpy as np

import jaxsde as js

potential, eta = js.problems.POTENTIALS["double_well"].function, 0.4
problem = js.potential(potential, jnp.array([1.0]), noise_covariance=1.0)
sgd = js.sgd(problem, learning_rate=eta)


def virial(phi):  # in a stationary law <phi . grad L> = (eta/2) <|g_hat|^2>, exactly, at any eta (Yaida 2018)
    g = problem.grad(phi)
    return jnp.stack([phi @ g, eta / 2 * (g @ g + 1.0)])


statistics = {
    "virial": js.of(virial, js.Mean()),
    "right": js.of(lambda phi: (phi[0] > 0).astype(phi.dtype), js.Mean()),
    "loss": js.of(problem.loss, js.Histogram(np.linspace(0, 1, 11))),
    "memory": js.of(lambda phi: phi[0], js.Autocovariance((1, 4, 16))),
}
run = js.simulate(
    sgd, [1.0], key=js.key(3), chains=2048, burn_in=2000, steps=4000, every=5, statistics=statistics
)
for name in statistics:
    print(f"{name:<8}", run[name])
print("ratio   ", run.estimate("virial", lambda m: m[0] / m[1]))
