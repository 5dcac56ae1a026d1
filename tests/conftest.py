"""The shapes that the mathematics annotates are checked while the tests run (jaxtyping's import hook with beartype).

Only where mathematics is all there is: constructors are handed wrong types on purpose, to see which sentence comes back, and
statistics take NumPy as well as JAX arrays. And only where shapes are annotated: what takes steps apart works on scalars, in
hundreds of thousands of calls, which checking would make five times slower.
"""

import gc
import os
import shutil
import sys
import tempfile
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

# What XLA has compiled, for all the processes of one session: the workers, and the commands that tests start.
_COMPILED = "JAX_COMPILATION_CACHE_DIR"


def pytest_configure(config):
    if _COMPILED not in os.environ:  # JAX is not imported yet
        config.compiled = os.environ[_COMPILED] = tempfile.mkdtemp(prefix="jaxsde-compiled-")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


def pytest_unconfigure(config):
    if (folder := getattr(config, "compiled", None)) is not None:
        shutil.rmtree(folder, ignore_errors=True)


# Every program that XLA compiles for the CPU keeps a few mappings of memory, of which Linux gives a process 65530 (vm.max_map_count);
# beyond them the compiler aborts. So a process that runs a thousand tests forgets what it compiled now and then: those of runs,
# which are large, with each file; all the small ones, which the next file needs again, only if there is no more room.
_MAPPINGS, _MEMORY = 20_000, 3 << 30
_kept = 0  # bytes that the process held when it had just forgotten everything: the system does not get them all back


def _held():
    """Mappings of memory, and bytes."""
    maps, sizes = Path("/proc/self/maps"), Path("/proc/self/statm")
    if not maps.exists():
        return 0, 0
    return maps.read_bytes().count(b"\n"), int(sizes.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _full():
    mappings, memory = _held()
    return mappings > _MAPPINGS or memory > _kept + _MEMORY


def pytest_runtest_teardown(item, nextitem):
    global _kept
    jax, launch = sys.modules.get("jax"), sys.modules.get("jaxsde.engine.launch")
    if jax is None:
        return
    full = _full()
    if launch is not None and (full or nextitem is None or nextitem.path != item.path):
        launch._programs.clear()
        gc.collect()
        full = _full()
    if full:
        jax.clear_caches()
        gc.collect()
        _kept = _held()[1]
