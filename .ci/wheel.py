"""Build the wheel, install it where there is no checkout, and use it: with the core dependencies alone, then with `app`.

Run by .ci/run in the environment of requirements.lock; `python .ci/wheel.py LINT_PYTHON`, which has hatchling and pip.
The dependencies are linked, not downloaded: only those that the wheel's own metadata asks for, so one that is missing
from it fails here, and pip (without an index) checks that the locked versions are versions that it allows.
"""

import email
import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str | Path, cwd: Path, status: int = 0) -> str:
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode != status:
        sys.exit(f"{' '.join(map(str, command))}: exit {done.returncode}, not {status}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def link(requirements: list[str], extra: str, packages: Path) -> None:
    """Make the `requirements` of `extra`, and what they require, importable from the folder `packages`."""
    todo, seen = [(Requirement(text), extra) for text in requirements], set()
    while todo:
        requirement, wanted_by = todo.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": wanted_by}):
            continue
        found = distribution(requirement.name)
        for extra in ("", *requirement.extras):
            if (key := (canonicalize_name(requirement.name), extra)) not in seen:
                seen.add(key)
                todo += [(Requirement(text), extra) for text in found.requires or []]
        for top in {file.parts[0] for file in found.files or []} - {"..", "__pycache__"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(Path(str(found.locate_file(top))))


def requirements_of(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name)).get_all("Requires-Dist") or []


def main(lint_python: str) -> None:
    with tempfile.TemporaryDirectory(prefix="jaxsde wheel ") as name:
        folder = Path(name)
        run(lint_python, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
        (wheel,) = folder.glob("*.whl")
        for extra in ("", "app"):
            clean = folder / (extra or "core")
            venv.create(clean, symlinks=True)
            python, jaxsde = clean / "bin" / "python", clean / "bin" / "jaxsde"
            packages = Path(
                run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=clean).strip()
            )
            link(requirements_of(wheel), extra, packages)
            pip = [lint_python, "-m", "pip", "--python", python, "--disable-pip-version-check", "--quiet"]
            run(*pip, "install", "--no-index", f"{wheel}[{extra}]" if extra else wheel, cwd=clean)
            where = run(python, "-c", "import jaxsde; print(jaxsde.__file__)", cwd=clean).strip()
            assert where.startswith(str(clean)), f"not the wheel's: {where}"
            print(f"{wheel.name}[{extra}]:", run(jaxsde, "--version", cwd=clean).strip())
            if extra:
                run(jaxsde, "run", "--chains", "256", "--steps", "200", "--out", "result", cwd=clean)
            else:
                said = run(jaxsde, "run", cwd=clean, status=69)
                assert "jaxsde[app]" in said and "Traceback" not in said, f"does not name the extra: {said}"


if __name__ == "__main__":
    main(sys.argv[1])
