"""The one exception of files, configs and the command line: what is wrong, where, the cure, and the exit code.

Exit codes: 0 ok · 1 an `--assert` or a paper's statement failed · 2 usage · 65 bad config or data · 66 input missing · 69 no
device or dependency · 70 a fault of jaxsde itself · 73 cannot create output · 74 I/O error or disk full · 75 out of memory,
smaller would do · 76 diverged · 130/143 interrupted.
"""

from __future__ import annotations

from typing import Any

FAILED_CHECK, USAGE, BAD_INPUT, NO_INPUT, UNAVAILABLE, FAULT = 1, 2, 65, 66, 69, 70
CANNOT_CREATE, IO_ERROR, TOO_LARGE, DIVERGED, INTERRUPTED, TERMINATED = 73, 74, 75, 76, 130, 143


class ExperimentError(ValueError):
    """`FILE:LINE: key = value: reason, and the cure`, on one line whatever the parts hold.

    `reason` says what is wrong and how to put it right; the other parts are left out where there are none. `value` is
    shown as Python shows it, unless it is already the `text` of a file. `code` is the command's exit code.
    """

    def __init__(
        self,
        reason: str,
        *,
        code: int = BAD_INPUT,
        file: Any = None,
        line: int | None = None,
        column: int | None = None,
        key: str | None = None,
        value: Any = None,
        text: str | None = None,
    ) -> None:
        self.reason, self.code, self.file, self.line, self.column = reason, code, file, line, column
        self.key, self.value = key, value
        place = ":".join(str(part) for part in (file, line, column) if part is not None)
        shown = text if text is not None else None if value is None else repr(value)
        what = key if shown is None or key is None else f"{key} = {_short(shown)}"
        super().__init__(one_line(": ".join(part for part in (place, what, reason) if part)))


def one_line(text: str) -> str:
    """`text` with line breaks and other control characters escaped, so that no file can forge a second message."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _short(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
