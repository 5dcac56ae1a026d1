"""`python -m jaxsde …` many times over, without starting Python each time: a process that has read what the command reads, and forks.

A fork is a process of its own, with its own folder, streams and exit code. The parent never imports JAX, so neither does a fork
that has not asked for it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

_SERVER = """
import json, os, runpy, sys, traceback
import jaxsde.cli, jaxsde.config, jaxsde.commands, jaxsde.toml, sklearn.datasets
for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if not child:
        code = 1
        try:
            for number, name in ((1, asked["out"]), (2, asked["error"])):
                file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(file, number)
                os.close(file)
            nothing = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nothing, 0)
            os.chdir(asked["folder"])
            sys.argv = ["jaxsde", *asked["arguments"]]
            try:
                runpy.run_module("jaxsde", run_name="__main__", alter_sys=True)
                code = 0
            except SystemExit as end:
                code = 0 if end.code is None else end.code
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 1)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


class Forked:
    """Starts commands in an environment that is the same for all of them."""

    def __init__(self, environment: dict[str, str], scratch: Path):
        self.out, self.error = scratch / "out", scratch / "error"
        self.server = subprocess.Popen(
            [sys.executable, "-c", _SERVER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, arguments: tuple[str, ...], folder: Path) -> subprocess.CompletedProcess[bytes]:
        assert self.server.stdin is not None and self.server.stdout is not None
        asked = {"arguments": arguments, "folder": str(folder), "out": str(self.out), "error": str(self.error)}
        print(json.dumps(asked), file=self.server.stdin, flush=True)
        code = int(self.server.stdout.readline())
        return subprocess.CompletedProcess(arguments, code, self.out.read_bytes(), self.error.read_bytes())

    def close(self) -> None:
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait(60)
