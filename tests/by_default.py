"""Cases that are always tested, among those that are tested where there is time."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import pytest


def some(cases: Iterable[Any], chosen: Container[Any]) -> list[Any]:
    """Parameters for pytest, of which those not chosen are slow. A tuple is a case of several parameters."""
    spread = lambda case: case if isinstance(case, tuple) else (case,)
    return [pytest.param(*spread(case), marks=() if case in chosen else pytest.mark.slow) for case in cases]
