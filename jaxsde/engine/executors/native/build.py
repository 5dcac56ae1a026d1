"""From LLVM IR to machine code for this processor, kept on disk for the next run.

The compiler is LLVM in this process (llvmlite), which needs nothing else on the machine. What it makes is kept in
$JAXSDE_CACHE_DIR, or jaxsde/native in the user's cache folder, under a name that is a digest of the source, the processor and
the compiler. Because loading a file from there runs it, the folder must belong to the user, who alone may write to it;
where it does not, nothing is kept.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import functools
import hashlib
import logging
import os
import stat
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

log = logging.getLogger("jaxsde")


class Machine(NamedTuple):
    """The processor that code is made for. `bits` is the width of its vectors."""

    triple: str
    name: str
    features: str
    bits: int

    def lanes(self, itemsize: int) -> int:
        """Numbers of that many bytes in a register."""
        return self.bits // (8 * itemsize)

    @property
    def attributes(self) -> str:
        wide = f'"prefer-vector-width"="{self.bits}" "min-legal-vector-width"="{self.bits}"'
        return wide if "x86" in self.triple else ""


@functools.cache
def missing() -> str | None:
    """Why nothing can be compiled here; None if it can."""
    try:
        import llvmlite.binding  # noqa: F401
    except ImportError:
        return "the package llvmlite is missing; pip install 'jaxsde[native]'"
    except OSError as error:
        return f"llvmlite does not load here: {error}"
    return None


@functools.cache
def machine() -> Machine:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features()
    bits = 512 if features.get("avx512f") else 256 if features.get("avx2") else 128
    return Machine(llvm.get_process_triple(), llvm.get_host_cpu_name(), features.flatten(), bits)


class Code:
    """A compiled module; `address(name)` is where one of its functions begins. Alive as long as this object is."""

    def __init__(self, engine: Any, cached: bool):
        self._engine, self.cached = engine, cached

    def address(self, name: str) -> int:
        return self._engine.get_function_address(name)


def build(source: str) -> Code:
    """The code of a module given as text."""
    import llvmlite.binding as llvm

    where = machine()
    words = "\n".join((source, *(str(part) for part in where), llvm.__name__, str(llvm.llvm_version_info)))
    digest = hashlib.sha256(words.encode()).hexdigest()
    module = llvm.parse_assembly(source)
    target = llvm.Target.from_triple(where.triple)
    engine = llvm.create_mcjit_compiler(
        module,
        target.create_target_machine(where.name, where.features, opt=3, jit=True, reloc="pic", codemodel="small"),
    )
    found = _read(digest)
    engine.set_object_cache(lambda _, code: _write(digest, code), lambda _: found)
    _library()
    engine.finalize_object()
    return Code(engine, found is not None)


@functools.cache
def _library() -> None:
    """Makes the C library's functions known to the compiler by address: a static Python may not export them."""
    import llvmlite.binding as llvm

    from .vectors import LIBRARY

    library = ctypes.CDLL(ctypes.util.find_library("m"))
    for name in {*LIBRARY.values(), "fmod"}:
        for symbol in (name, name + "f"):
            with contextlib.suppress(AttributeError):
                llvm.add_symbol(symbol, ctypes.cast(getattr(library, symbol), ctypes.c_void_p).value)


def folder() -> Path | None:
    """Where compiled code is kept, made if need be; None where that would not be safe."""
    named = os.environ.get("JAXSDE_CACHE_DIR")
    if named == "":
        return None
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        place = Path(named) if named else (Path(base) if base else Path.home() / ".cache") / "jaxsde" / "native"
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = place.lstat()
        mine = about.st_uid == os.geteuid() and stat.S_ISDIR(about.st_mode)
        if mine and stat.S_IMODE(about.st_mode) != 0o700:
            place.chmod(0o700)
    except (OSError, RuntimeError) as error:
        log.info("compiled code is not kept: %s", error)
        return None
    if not mine:
        log.info("compiled code is not kept: %s is not this user's own folder", place)
        return None
    return place


def _read(digest: str) -> bytes | None:
    place = folder()
    if place is None:
        return None
    try:
        handle = os.open(place / f"{digest}.o", os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(handle, "rb") as file:
            about = os.fstat(file.fileno())
            if about.st_uid != os.geteuid() or about.st_mode & 0o022:
                return None
            content = file.read()
    except OSError:
        return None
    code, mark = content[:-32], content[-32:]
    return code if hashlib.sha256(code).digest() == mark else None  # a file cut short is made again


def _write(digest: str, code: bytes) -> None:
    place = folder()
    if place is None:
        return
    try:
        handle, name = tempfile.mkstemp(dir=place)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(code + hashlib.sha256(code).digest())
            os.replace(name, place / f"{digest}.o")
        except OSError:
            os.unlink(name)
            raise
    except OSError as error:
        log.info("compiled code is not kept: %s", error)
