"""The shapes that the mathematics annotates are checked while the tests run (jaxtyping's import hook with beartype).

Only where mathematics is all there is: constructors are handed wrong types on purpose, to see which sentence comes back, and
statistics take NumPy as well as JAX arrays. And only where shapes are annotated: what takes steps apart works on scalars, in
hundreds of thousands of calls, which checking would make five times slower.
"""

import gc
import sys
from pathlib import Path

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

# Every program that XLA compiles for the CPU keeps a few mappings of memory, of which Linux gives a process 65530 (vm.max_map_count);
# beyond them the compiler aborts. So a process that runs a thousand tests forgets what it compiled now and then.
_MAPPINGS = 15_000


def pytest_runtest_teardown(item, nextitem):
    jax, launch = sys.modules.get("jax"), sys.modules.get("jaxsde.engine.launch")
    maps = Path("/proc/self/maps")
    if jax is None or not maps.exists():
        return
    if nextitem is None or nextitem.path != item.path or maps.read_bytes().count(b"\n") > _MAPPINGS:
        if launch is not None:
            launch._programs.clear()
        jax.clear_caches()
        gc.collect()
