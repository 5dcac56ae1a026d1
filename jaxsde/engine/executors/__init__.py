"""How a step is run. Each executor is a module with `refuses`, which says why a chain is not for it (or, unless it is wanted
by name, why another is faster), and `program`, whose result takes tiles of chains some steps on:
`program(...).bind(shared, words, span)(ids, tile) -> tile`."""

from __future__ import annotations

import logging
import warnings
from typing import Any

from . import lanes, native, pallas, vmap

log = logging.getLogger("jaxsde")

EXECUTORS: dict[str, Any] = {"vmap": vmap, "lanes": lanes, "pallas": pallas, "native": native}
AUTO = ("native", "pallas", "lanes", "vmap")  # the first that takes the chain


def choose(wanted: str, chain: Any, state: Any, dtype: Any, platform: str) -> str:
    """The executor that will run this chain: the one that is wanted, if it can, else the next that can. Says why."""
    for name in AUTO if wanted == "auto" else (wanted, *(n for n in AUTO if n != wanted)):
        reason = EXECUTORS[name].refuses(chain, state, dtype, platform, wanted=name == wanted)
        if reason is None:
            return name
        if name == wanted:
            warnings.warn(f"executor {name!r} cannot run this chain ({reason}); another one does", stacklevel=5)
        else:
            log.info("executor %s does not run this chain: %s", name, reason)
    raise AssertionError("the last executor takes every chain")
