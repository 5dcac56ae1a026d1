"""The shapes that the mathematics annotates are checked while the tests run (jaxtyping's import hook with beartype).

Only where mathematics is all there is: constructors are handed wrong types on purpose, to see which sentence comes back, and
statistics take NumPy as well as JAX arrays.
"""

import gc
import sys

import jax
import pytest
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
    "engine.executors",
)

install_import_hook([f"jaxsde.{name}" for name in _CHECKED], "beartype.beartype")

settings.register_profile("fixed", derandomize=True)  # fixed seeds: a test passes or fails, the same way every time
settings.load_profile("fixed")


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """What a file of tests compiled is of no use to the next one, and Linux lets a process map memory 65530 times."""
    yield
    if launch := sys.modules.get("jaxsde.engine.launch"):
        launch._programs.clear()
    jax.clear_caches()
    gc.collect()
