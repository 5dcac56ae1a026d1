"""What should come out: minima, Gibbs laws, stationary laws, stability and currents, in float64 from the very objects that run.

Read in this order: `float64` (how a loss is evaluated), `minimum`, `linear` (second-moment equations), `linearise` (A, C and F
of an object; `examples`, `updates`), `stationary` (with `epochs`, `reshuffling`, `orbits`) and what follows, `transient`, `edge`,
`kurtosis` and `tail`; `gaussian` and `temperature` (distances to Gibbs), `confine`, `grid`, `gibbs`, `density` (by quadrature),
`lattice` (an SDE's generator as jumps on a grid), `markov` (laws of such jumps), `levels` and `refined` (one grid, several),
`enclose` (the box around them), `distance` and `fokker_planck` (what follows), `currents`; `step_law`, `transfer`, `chain_law` (of
a chain, on a grid), `escape` (times of first passage: `escape_line`, `escape_grid`, `escape_chain`, `saddle`).
"""

from .chain_law import CellKl, TransferOperator, transfer_operator
from .currents import area_rates, entropy_production, linear_entropy_production
from .density import GaussianDensity, LineDensity, stationary_density
from .edge import stability_edge
from .escape import Escape, PassageTime, eyring_kramers, kramers, mean_first_passage
from .fokker_planck import Evolution, FokkerPlanck, fokker_planck
from .gaussian import best_temperature, gaussian_kl, gaussian_kl_to_gibbs
from .gibbs import Gibbs, gibbs
from .kurtosis import kurtosis_edge
from .linear import discrete_lyapunov, lyapunov
from .minimum import minimum
from .refined import Refined
from .stationary import StationaryLaw, stationary_covariance, stationary_law, stationary_mean
from .tail import tail_index
from .temperature import density_kl_to_gibbs, temperature_of_loss
from .transient import Transient, excess_loss, transient

__all__ = [
    "CellKl",
    "Escape",
    "Evolution",
    "FokkerPlanck",
    "GaussianDensity",
    "Gibbs",
    "LineDensity",
    "PassageTime",
    "Refined",
    "StationaryLaw",
    "TransferOperator",
    "Transient",
    "area_rates",
    "best_temperature",
    "density_kl_to_gibbs",
    "discrete_lyapunov",
    "entropy_production",
    "excess_loss",
    "eyring_kramers",
    "fokker_planck",
    "gaussian_kl",
    "gaussian_kl_to_gibbs",
    "gibbs",
    "kramers",
    "kurtosis_edge",
    "linear_entropy_production",
    "lyapunov",
    "mean_first_passage",
    "minimum",
    "stability_edge",
    "stationary_covariance",
    "stationary_density",
    "stationary_law",
    "stationary_mean",
    "tail_index",
    "temperature_of_loss",
    "transfer_operator",
    "transient",
]
