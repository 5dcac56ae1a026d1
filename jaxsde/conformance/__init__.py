"""A conformance suite: samplers of jaxsde and of other packages, asked for stationary laws whose moments are known exactly.

    print(jaxsde.conformance.conform(quick=True))

| file | what |
|---|---|
| exact.py | the references, in NumPy and SciPy alone |
| laws.py | the laws: what is observed, what should come out, how long is long enough |
| ours.py | jaxsde's chains |
| peers.py | BlackJAX, diffrax and optax, through their public functions |
| table.py | z-scores, the budget of false alarms, the planted errors, the verdicts |
| figure.py | the table as a figure |
"""

from .laws import LAWS, Law
from .table import SAMPLERS, Row, Table, conform, pairs

__all__ = ["LAWS", "SAMPLERS", "Law", "Row", "Table", "conform", "pairs"]
