"""The shapes that the mathematics annotates are checked while the tests run (jaxtyping's import hook with beartype).

Only where mathematics is all there is: constructors are handed wrong types on purpose, to see which sentence comes back, and
statistics take NumPy as well as JAX arrays. And only where shapes are annotated: what takes steps apart works on scalars, in
hundreds of thousands of calls, which checking would make five times slower.
"""

from hypothesis import settings
from jaxtyping import install_import_hook

_CHECKED = (
    "problems.problem",
    "problems.potentials",
    "problems.finite_sums",
    "dynamics.noise",
    "engine.layout",
    "engine.launch",
    "engine.run",
    "engine.traced",
    "engine.executors.tile",
)

install_import_hook([f"jaxsde.{name}" for name in _CHECKED], "beartype.beartype")

settings.register_profile("fixed", derandomize=True)  # fixed seeds: a test passes or fails, the same way every time
settings.load_profile("fixed")
