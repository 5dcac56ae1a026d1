"""The folder of a run: one holder at a time, and no file under its final name before it is whole.

Everything is first written to a staging folder inside; `publish` renames it all, `result.json` last. A run that is killed
leaves only its lock and its staging folder, which the next run takes over.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import shutil
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from .errors import CANNOT_CREATE, IO_ERROR, ExperimentError

LOCK, STAGING = ".jaxsde-lock", ".jaxsde-staging"
RESULT = "result.json"


class Folder:
    """An output folder that this process holds. Use as a context: what is not published is removed at the end.

    `staging` is where files are written; `path` where they will be; `publish()` moves them there and returns their names.
    """

    def __init__(self, path: Path, lock: Any, made: list[Path]) -> None:
        self.path, self.staging = path, path / STAGING
        self._lock, self._made, self._published = lock, made, False

    def publish(self) -> list[str]:
        """Renames every staged file to its final name, `result.json` last, and returns the names."""
        names = sorted(str(p.relative_to(self.staging)) for p in self.staging.rglob("*") if p.is_file())
        names.sort(key=lambda name: name == RESULT)
        # A figure of an older run beside a new result would mislead.
        stale = _written_before(self.path).difference(names)
        for name in names:
            target = self.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(self.staging / name, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(self.staging / name, target)
        for name in stale:
            (self.path / name).unlink(missing_ok=True)
        self._published = True
        return names

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: Any) -> None:
        shutil.rmtree(self.staging, ignore_errors=True)
        (self.path / LOCK).unlink(missing_ok=True)
        self._lock.close()
        if not self._published:
            for folder in reversed(self._made):
                try:
                    folder.rmdir()
                except OSError:
                    break


def take(out: str | None, title: str, *, force: bool = False, error: Callable[..., ExperimentError]) -> Folder:
    """The folder `out`, made and locked; `runs/TITLE`, `runs/TITLE-2`, … if None. `error(reason, code=…)` places a fault.

    A relative `out` stays below the current folder, and no part of it is `..`, begins with `-` or is a link that leads
    elsewhere (65). A folder that holds files already is refused unless `force` (73), as is one that another run holds.
    """
    if out is not None:
        taken = _take(checked(out, error), force, error)
        if isinstance(taken, str):
            raise error(f"{out} {taken}", code=CANNOT_CREATE)
        return taken
    for number in range(1, 10_000):
        taken = _take(Path("runs") / (title if number == 1 else f"{title}-{number}"), False, error)
        if isinstance(taken, Folder):
            return taken
    raise error("runs holds 9999 runs of this name; give --out", code=CANNOT_CREATE)


def checked(out: str, error: Callable[..., ExperimentError]) -> Path:
    """`out` as a path that leads where it seems to; see `take`."""
    if not out or "\0" in out:
        raise error("is no path; give the name of a folder")
    path = Path(out)
    for part in path.parts:
        if part == ".." or (part.startswith("-") and part != path.anchor):
            raise error(f"has the part {part!r}, which leads elsewhere or looks like a flag; give a plain folder")
        if len(os.fsencode(part)) > 200:
            raise error("has a name of more than 200 bytes; give a shorter one")
    if any(not c.isprintable() for c in out):
        raise error("has a character that cannot be shown; give a plain name")
    if len(os.fsencode(out)) > 3000:
        raise error("is longer than 3000 bytes; give a shorter path")
    inside = Path.cwd().resolve()
    if path.is_symlink() or (not path.is_absolute() and not (inside / path).resolve().is_relative_to(inside)):
        raise error("is a link that leads elsewhere; give the folder itself")
    return path


def write_json(path: Path, value: Any) -> None:
    """Writes JSON that any reader takes: no NaN or infinity (null instead), UTF-8."""
    path.write_text(json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def plain(value: Any) -> Any:
    """`value` as JSON types: arrays as lists, tuples as lists, numbers that are not finite as None."""
    if hasattr(value, "to_json"):
        return plain(value.to_json())
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def io_code(fault: OSError) -> int:
    """The exit code of a failed write: 73 where the folder cannot be made, 74 for a full disk and the like."""
    cannot = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT, errno.ELOOP)
    return CANNOT_CREATE if fault.errno in cannot else IO_ERROR


def _written_before(path: Path) -> set[str]:
    """Files that an older run wrote here, as its own result lists them and only those below the folder."""
    try:
        names = json.loads((path / RESULT).read_text(encoding="utf-8"))["files"]
        files = {name for name in names if (path / name).is_file()}
        return {name for name in files if (path / name).resolve().is_relative_to(path.resolve())}
    except (OSError, ValueError, TypeError, KeyError):
        return set()


def _take(path: Path, force: bool, error: Callable[..., ExperimentError]) -> Folder | str:
    """The folder, or why it is taken."""
    made: list[Path] = []
    try:
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            return "is a file; give a folder"
        for folder in reversed([path, *path.parents]):
            if not folder.exists():
                folder.mkdir(exist_ok=True)
                made.append(folder)
        lock = _lock(path)
        if isinstance(lock, str):
            return f"is being written by {lock}; wait for it or give another folder"
        if not force and any(p.name not in (LOCK, STAGING) for p in path.iterdir()):
            (path / LOCK).unlink(missing_ok=True)
            lock.close()
            return "exists and is not empty; give another folder, or --force"
        shutil.rmtree(path / STAGING, ignore_errors=True)
        (path / STAGING).mkdir()
        return Folder(path, lock, made)
    except OSError as fault:
        for folder in reversed(made):
            shutil.rmtree(folder, ignore_errors=True)
        reason = f"{path} cannot be written ({fault.strerror}); give another folder"
        raise error(reason, code=io_code(fault)) from None


def _lock(path: Path) -> IO[str] | str:
    """The open lock file of the folder, or the name of its holder. The kernel frees it when its holder dies."""
    while True:
        lock = (path / LOCK).open("a+", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read(200).strip() or "another process"
            lock.close()
            return holder
        try:
            if os.fstat(lock.fileno()).st_ino == (path / LOCK).stat().st_ino:
                break
        except FileNotFoundError:
            pass
        lock.close()  # its last holder removed it between our opening and our locking
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()} since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC\n")
    lock.flush()
    return lock
