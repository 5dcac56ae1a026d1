"""Arrays as the machine code reads them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..scalar import block


def row_bytes(dtype: Any) -> np.dtype:
    """How one entry of a state is kept: flags as bytes."""
    return np.dtype(np.uint8) if np.dtype(dtype).kind == "b" else np.dtype(dtype)


def tables(leaves: list[Any]) -> list[np.ndarray]:
    """The arrays that chains share as the kernel reads them: rows that start where vectors do, and room behind the last."""
    arrays = [np.asarray(leaf) for leaf in leaves]
    places = block.arrange([(a.shape, a.dtype) for a in arrays])
    found: dict[int, np.ndarray] = {}
    for array, place in zip(arrays, places, strict=True):
        kept, count = row_bytes(array.dtype), array.shape[0] if array.ndim else 1
        if place.table not in found:
            raw = np.zeros(count * place.stride + 16 + 64 // kept.itemsize, kept)
            start = -raw.ctypes.data % 64 // kept.itemsize
            found[place.table] = raw[start : start + count * place.stride].reshape(count, place.stride)
        if array.size:
            inner = array.size // count
            found[place.table][:, place.offset : place.offset + inner] = array.reshape(count, inner)
    return [found[i] for i in range(len(found))]


def aligned(*shape: int) -> np.ndarray:
    """Zero bytes that begin where a vector may."""
    size = int(np.prod(shape))
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].reshape(shape)


def pointers(arrays: list[np.ndarray]) -> np.ndarray:
    """Where each array is, as the code reads it."""
    return np.array([*(a.ctypes.data for a in arrays), 0], np.uint64)


def pointers_to_rows(arrays: list[np.ndarray]) -> np.ndarray:
    """Where each row of each array is: thousands of them, where a state is large."""
    rows = [a.ctypes.data + np.arange(len(a), dtype=np.uint64) * np.uint64(a.strides[0]) for a in arrays]
    return np.concatenate([*rows, np.zeros(1, np.uint64)])
