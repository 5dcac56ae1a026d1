"""The law of minibatch SGD beside that of its SDE and of Gibbs: `import jaxsde as js`.

The import is lazy: it starts no JAX and changes none of its settings. The first public name that is used imports
`jaxsde.public`, which lists them all.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from . import catalogue

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .public import *  # noqa: F403


def __getattr__(name: str) -> Any:
    # Modules first: `from . import config` asks here too, and must not start JAX.
    if not name.startswith("_") and importlib.util.find_spec(f".{name}", __name__) is not None:
        return importlib.import_module(f".{name}", __name__)
    public = None if name.startswith("_") else importlib.import_module(".public", __name__)
    if public is None or name not in public.__all__:
        hint = "" if public is None else "; " + catalogue.did_you_mean(name, public.__all__)
        raise AttributeError(f"module 'jaxsde' has no attribute {name!r}{hint}")
    value = getattr(public, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *importlib.import_module(".public", __name__).__all__})
