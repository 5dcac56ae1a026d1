"""What should come out: minima, Gibbs laws, stationary laws, stability and currents, in float64 from the very objects that run.

Read in this order: `float64` (how a loss is evaluated), `minimum`, `linear` (second-moment equations), `linearise` (A, C and F
of an object), `stationary` and `edge` (what follows), `currents`, `gaussian` and `temperature` (distances to Gibbs), `confine`,
`grid`, `gibbs`, `density` (laws by quadrature), `lattice` (the generator of an SDE as jumps on a grid), `step_law`, `transfer`,
`chain_law` (of a chain, on a grid), `escape` (times of first passage: `escape_line`, `escape_grid`, `escape_chain`, `saddle`).
"""

from .chain_law import CellKl, TransferOperator, transfer_operator
from .currents import area_rates, entropy_production, linear_entropy_production
from .density import GaussianDensity, LineDensity, stationary_density
from .edge import stability_edge
from .escape import Escape, PassageTime, eyring_kramers, kramers, mean_first_passage
from .gaussian import best_temperature, gaussian_kl, gaussian_kl_to_gibbs
from .gibbs import Gibbs, gibbs
from .linear import discrete_lyapunov, lyapunov
from .minimum import minimum
from .stationary import StationaryLaw, stationary_covariance, stationary_law, stationary_mean
from .temperature import density_kl_to_gibbs, temperature_of_loss

__all__ = [
    "CellKl",
    "Escape",
    "GaussianDensity",
    "Gibbs",
    "LineDensity",
    "PassageTime",
    "StationaryLaw",
    "TransferOperator",
    "area_rates",
    "best_temperature",
    "density_kl_to_gibbs",
    "discrete_lyapunov",
    "entropy_production",
    "eyring_kramers",
    "gaussian_kl",
    "gaussian_kl_to_gibbs",
    "gibbs",
    "kramers",
    "linear_entropy_production",
    "lyapunov",
    "mean_first_passage",
    "minimum",
    "stability_edge",
    "stationary_covariance",
    "stationary_density",
    "stationary_law",
    "stationary_mean",
    "temperature_of_loss",
    "transfer_operator",
]
