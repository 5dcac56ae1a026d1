"""The kernels written by hand in limit/, compiled at need."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from .harness import Implementation, Ready

_SOURCES = sorted((Path(__file__).parent / "limit").glob("*.cpp"))
_FLAGS = ("-O3", "-mavx2", "-mfma", "-std=c++17", "-shared", "-fPIC", "-pthread")


def missing() -> str | None:
    """Why the yardstick cannot run here; None if it can."""
    if not _compiler():
        return "no C++ compiler (c++, g++ or clang++) on this machine"
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "this system does not tell whether the processor has AVX2"
    return None if " avx2" in flags and " fma" in flags else "this processor has no AVX2"


def _compiler() -> str | None:
    return next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)


@functools.cache
def _library() -> ctypes.CDLL:
    """RuntimeError with the compiler's words if it does not compile."""
    compiler = _compiler()
    assert compiler is not None, missing()
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "limit.so"
        done = subprocess.run([compiler, *_FLAGS, *_SOURCES, "-o", library], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the yardstick does not compile: {done.stderr.strip()}")
        return ctypes.CDLL(str(library))


def prepare(kernel: str, dim: int, given: np.ndarray, chains: int, steps: int, examples: int | None = None) -> Ready:
    """A kernel of limit/ on every core; `given` is what it takes, `examples` the number of rows at its end."""
    function = getattr(_library(), kernel)
    function.restype = None
    given = np.ascontiguousarray(given, np.float32)
    threads = len(os.sched_getaffinity(0))

    def run(seed: int) -> np.ndarray:
        out = np.empty((-(-chains // 32) * 32, dim), np.float32)
        more = [] if examples is None else [ctypes.c_int(examples)]
        function(
            ctypes.c_int(threads), ctypes.c_int64(len(out)), ctypes.c_int64(steps), ctypes.c_uint64(seed),
            ctypes.c_void_p(given.ctypes.data), *more, ctypes.c_void_p(out.ctypes.data),
        )  # fmt: skip
        return out[:chains]

    return Ready(run, executor="c++")


def implementations(kernel: str, dim: int, given: np.ndarray, steps: int, examples: int | None = None) -> list[Implementation]:
    """The kernel as a way to simulate, where it can be compiled."""
    if missing():
        return []
    run = lambda chains, steps: prepare(kernel, dim, given, chains, steps, examples)
    return [Implementation("C++ AVX2 by hand", "yardstick", steps, run)]
