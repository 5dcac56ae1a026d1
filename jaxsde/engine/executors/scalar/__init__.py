"""The step of one chain as a graph of scalar operations, from its jaxpr: what every executor but `vmap` prints."""

from .evaluate import evaluate
from .graph import Graph, Node, Table, Unsupported

__all__ = ["Graph", "Node", "Table", "Unsupported", "evaluate"]
