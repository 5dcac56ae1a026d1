"""Processors that machine code is compiled for, here or not, and a word of their assembly that shows it."""

from jaxsde.engine.executors.native import build

PROCESSORS = {
    "AVX-512": (build.Machine("x86_64-unknown-linux-gnu", "skylake-avx512", "", 512), "zmm"),
    "AVX2": (build.Machine("x86_64-unknown-linux-gnu", "haswell", "", 256), "ymm"),
    "x86-64": (build.Machine("x86_64-unknown-linux-gnu", "x86-64", "", 128), "xmm"),
    "arm64": (build.Machine("aarch64-unknown-linux-gnu", "neoverse-n1", "", 128), "fmla"),
}
