"""One step of an SDE  dX = f(t, X) dt + b(X) dW  with b = scale · Σ^½, from standardised draws z (ΔW = √h z).

Each file ends in a dict that says, for every integrator, its calculus, the noise it covers, and its strong and weak orders;
`jaxsde list integrators` prints them. A pair that does not fit is refused when the chain is built, with those that do.
`terms.py` has what they share, `ito.py` the plain schemes, `strong.py`, `weak.py` and `kinetic.py` the rest; `fitting.py`
joins the dicts to `INTEGRATORS` and compares what they declare with an SDE.
"""

from .fitting import INTEGRATORS, check, named, that_fit
from .ito import EulerMaruyama, Heun, LeimkuhlerMatthews, TamedEuler
from .kinetic import BAOAB, OBABO
from .strong import SRA1, ExactLinear, Milstein
from .terms import ito_correction
from .weak import Platen

__all__ = [
    "BAOAB",
    "INTEGRATORS",
    "OBABO",
    "SRA1",
    "EulerMaruyama",
    "ExactLinear",
    "Heun",
    "LeimkuhlerMatthews",
    "Milstein",
    "Platen",
    "TamedEuler",
    "check",
    "ito_correction",
    "named",
    "that_fit",
]
