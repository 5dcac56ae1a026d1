"""The hand-written kernel of limit/limit.cpp, compiled at need."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from .harness import Ready

_SOURCE = Path(__file__).parent / "limit" / "limit.cpp"


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


def prepare(chains: int, steps: int, a: float, s: float) -> Ready:
    """x <- a x + s z on every core. RuntimeError with the compiler's words if it does not compile."""
    compiler = _compiler()
    assert compiler is not None, missing()
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "limit.so"
        flags = ["-O3", "-mavx2", "-mfma", "-std=c++17", "-shared", "-fPIC", "-pthread"]
        done = subprocess.run([compiler, *flags, str(_SOURCE), "-o", str(library)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{_SOURCE.name} does not compile: {done.stderr.strip()}")
        kernel = ctypes.CDLL(str(library)).ornstein_uhlenbeck
    kernel.restype = None
    kernel.argtypes = (
        [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint64] + [ctypes.c_float] * 2 + [ctypes.c_void_p]
    )
    threads = len(os.sched_getaffinity(0))

    def run(seed: int) -> np.ndarray:
        out = np.empty(-(-chains // 32) * 32, np.float32)
        kernel(threads, out.size, steps, seed, a, s, out.ctypes.data)
        return out[:chains]

    return Ready(run, executor="c++")
