"""A progress bar on standard error, through tqdm where it is installed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def progress_bar(progress: Any, total: int, run: Any) -> Iterator[Callable[[int, Any], None]]:
    """Yields bar(steps, run), called once a chunk. `progress` is False, True (tqdm), or a function of (steps done, total)."""
    if not progress:
        yield lambda steps, run: None
        return
    if callable(progress):
        done = 0

        def report(steps: int, run: Any) -> None:
            nonlocal done
            done += steps
            progress(done, total)

        yield report
        return
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError("progress=True needs tqdm: pip install 'jaxsde[app]', or leave progress out") from error
    with tqdm(total=total, unit="step", unit_scale=True, desc=f"{run.chains} chains", leave=False) as bar:

        def update(steps: int, run: Any) -> None:
            bar.update(steps)
            if gone := int(run.diverged.sum()):
                bar.set_postfix(diverged=gone)

        yield update
