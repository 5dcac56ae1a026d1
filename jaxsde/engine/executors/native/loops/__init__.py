"""Steps too large to be written out scalar by scalar: their arrays are kept in memory, a vector of chains for each entry, and
worked through by loops."""

from .kernel import source

__all__ = ["source"]
