"""One step of an SDE  dX = f(t, X) dt + b(X) dW  with b = scale · Σ^½, from standardised draws z (ΔW = √h z).

Each file ends in a dict that says, for every integrator, its calculus, the noise it covers, and its strong and weak orders;
`jaxsde list integrators` prints them. A pair that does not fit is refused when the chain is built, with those that do.
`terms.py` has what they share, `ito.py` the plain schemes, `strong.py`, `weak.py` and `kinetic.py` the rest.
"""

from .ito import ITO, EulerMaruyama, Heun, LeimkuhlerMatthews, TamedEuler
from .kinetic import BAOAB, KINETIC, OBABO
from .strong import SRA1, STRONG, ExactLinear, Milstein
from .terms import ito_correction
from .weak import WEAK, Platen

INTEGRATORS = ITO | STRONG | WEAK | KINETIC

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
    "ito_correction",
]
