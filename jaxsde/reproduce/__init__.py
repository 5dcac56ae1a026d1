"""What papers on the stationary law of SGD say, computed: for each the one statement that can be, measured beside its formula.

    from jaxsde.reproduce import PAPERS, reproduce
    print(reproduce("mandt"))

`statement.py` is what a statement is and when it passes, `passage.py` first passages on the line, `figures.py` what the figures
share; the rest is a file a paper, with its entry at the foot.
"""

from __future__ import annotations

from typing import Any

from ..catalogue import did_you_mean
from .azizian import AZIZIAN
from .chaudhari import CHAUDHARI
from .kunin import KUNIN
from .mandt import MANDT
from .paquette import PAQUETTE
from .simsekli import SIMSEKLI
from .statement import FALSE_ALARM, Entry, Statement
from .xie import XIE
from .zhu import ZHU

PAPERS: dict[str, Entry] = MANDT | CHAUDHARI | ZHU | XIE | SIMSEKLI | KUNIN | PAQUETTE | AZIZIAN

__all__ = ["FALSE_ALARM", "PAPERS", "Entry", "Statement", "reproduce"]


def reproduce(name: str, *, key: Any = None, **settings: Any) -> Statement:
    """The statement of a paper of `PAPERS`, measured. `key` is any `jax.random` key (seed 0); `settings` are those of its function:
    `chains`, and `noise`, which plants an error that must be found. `ValueError` for a name there is none of."""
    if name not in PAPERS:
        raise ValueError(f"no paper {name!r}; {did_you_mean(name, PAPERS)}")
    from ..random import key as seeded

    return PAPERS[name].function(seeded(0) if key is None else key, **settings)
