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
import itertools
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
    def x86(self) -> bool:
        return "x86" in self.triple

    @property
    def attributes(self) -> str:
        """Of functions. Registers that go to the stack go to whole lines of the cache: a caller aligns it to 16 bytes only,
        and by luck a step took up to half as long again."""
        wide = f'"prefer-vector-width"="{self.bits}" "min-legal-vector-width"="{self.bits}"'
        return f"alignstack={self.bits // 8} {wide}" if self.x86 and self.bits > 128 else wide if self.x86 else ""


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
    """A linked module; `address(name)` is where one of its functions begins. Alive as long as this object is."""

    def __init__(self, linked: Any, cached: bool):
        self._linked, self.cached = linked, cached

    def address(self, name: str) -> int:
        return self._linked[name]


_names = itertools.count()


def build(source: str) -> Code:
    """The code of a module given as text, whose one function is `advance`."""
    import llvmlite.binding as llvm

    where = machine()
    words = "\n".join((source, *(str(part) for part in where), str(llvm.llvm_version_info)))
    digest = hashlib.sha256(words.encode()).hexdigest()
    code = _read(digest)
    cached = code is not None
    if code is None:
        target = llvm.Target.from_triple(where.triple)
        # The small code model reads constants relative to the instruction; the linker below keeps both in one place.
        maker = target.create_target_machine(where.name, where.features, opt=3, reloc="pic", codemodel="small")
        module = llvm.parse_assembly(source)
        module.verify()
        code = maker.emit_object(module)
        _write(digest, code)
    library = llvm.JITLibraryBuilder().add_object_img(code).export_symbol("advance")
    for name, address in _mathematics().items():
        library.import_symbol(name, address)
    return Code(library.link(_linker(), f"jaxsde{next(_names)}"), cached)


@functools.cache
def _linker() -> Any:
    import llvmlite.binding as llvm

    return llvm.create_lljit_compiler(use_jit_link=True)


@functools.cache
def _mathematics() -> dict[str, int]:
    """The C library's functions by address: a static Python may not export them."""
    from .vectors import LIBRARY

    library, found = ctypes.CDLL(ctypes.util.find_library("m")), {}
    for name in {*LIBRARY.values(), "fmod", "ceil", "floor", "roundeven", "sqrt", "fma"}:
        for symbol in (name, name + "f"):
            with contextlib.suppress(AttributeError):
                found[symbol] = ctypes.cast(getattr(library, symbol), ctypes.c_void_p).value
    return found


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
