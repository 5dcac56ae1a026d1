"""Programs that XLA compiles, whole, for one shape of tile."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# A matrix product on the CPU by the compiler's own loops, on one thread: the libraries behind the defaults add in an order
# that depends on the shape of the whole product, so on the number of chains, and on the number of cores.
_SAME_BITS = {"xla_cpu_multi_thread_eigen": False, "xla_cpu_experimental_ynn_fusion_type": ""}
# A factorisation (LAPACK) or a Fourier transform of many chains runs on one of as many threads as there are cores, and waits
# there for parts of itself that need another one: when as many such operations run at a time, all wait for ever. So one after
# the other in a program, and one tile at a time, of so few chains that no operation is given to several threads.
_WAITING = ("@lapack_", "stablehlo.fft", "@ducc_fft")
_IN_TURN = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


class Program:
    """A traced function, compiled ahead of time. `bind` gives what takes one tile of an advance; `alone`: one at a time."""

    def __init__(self, function: Callable[..., Any], arguments: tuple, platform: str, **static: Any):
        # JAX keeps what it has compiled for as long as the function lives: this one lives as long as the program.
        own = functools.partial(function, **static)
        lowered = jax.jit(own).lower(*arguments)
        self.alone = waits(lowered, platform)
        self.call = compiled(lowered, platform, self.alone)

    def bind(self, shared: tuple, words: Any, span: Any) -> Callable[[tuple, Any], Any]:
        return lambda ids, tile: self.call(*shared, words, ids, span, tile)

    @property
    def bytes(self) -> int:
        """Memory of one launch, by the compiler's own count."""
        memory = self.call.memory_analysis()
        return memory_bytes(memory) if memory is not None else 0


def memory_bytes(memory: Any) -> int:
    return memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes


def waits(lowered: Any, platform: str) -> bool:
    """Whether a program has operations of which two at a time may wait for ever."""
    text = lowered.as_text() if platform == "cpu" else ""
    return any(word in text for word in _WAITING)


def compiled(lowered: Any, platform: str, alone: bool) -> Any:
    """The program, compiled so that a chain's bits do not depend on the chains beside it; `alone`: one operation at a time."""
    options = _SAME_BITS | (_IN_TURN if alone else {}) if platform == "cpu" else {}
    try:
        return lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
    known = {name: value for name, value in options.items() if _knows(name, value)}
    return lowered.compile(compiler_options=known)


@functools.cache
def _knows(name: str, value: Any) -> bool:
    """Whether this version of the compiler has the option: they come and go."""
    try:
        jax.jit(jnp.negative).lower(0.0).compile(compiler_options={name: value})
    except jax.errors.JaxRuntimeError:
        return False
    return True
