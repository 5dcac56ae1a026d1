"""How a step is run: each executor's `advance` takes a tile of chains some steps on, with the signature of `vmap.advance`."""

from . import vmap

EXECUTORS = {"vmap": vmap}
