"""What should come out: minima, Gibbs laws, stationary laws, stability and currents, in float64 from the very objects that run.

Read in this order: `float64` (how a loss is evaluated), `minimum`, `linear` (second-moment equations), `linearise` (A, C and F
of an object; `examples`, `updates`), `stationary` (with `epochs`, `reshuffling`, `orbits`) and what follows, `transient`, `edge`,
`kurtosis` and `tail`; `currents`, `gaussian` and `temperature` (distances to Gibbs), `confine`, `grid`, `gibbs`, `density` (laws by
quadrature), `lattice` (the generator of an SDE as jumps on a grid).
"""

from .currents import area_rates, entropy_production, linear_entropy_production
from .density import GaussianDensity, LineDensity, stationary_density
from .edge import stability_edge
from .gaussian import best_temperature, gaussian_kl, gaussian_kl_to_gibbs
from .gibbs import Gibbs, gibbs
from .kurtosis import kurtosis_edge
from .linear import discrete_lyapunov, lyapunov
from .minimum import minimum
from .stationary import StationaryLaw, stationary_covariance, stationary_law, stationary_mean
from .tail import tail_index
from .temperature import density_kl_to_gibbs, temperature_of_loss
from .transient import Transient, excess_loss, transient

__all__ = [
    "GaussianDensity",
    "Gibbs",
    "LineDensity",
    "StationaryLaw",
    "Transient",
    "area_rates",
    "best_temperature",
    "density_kl_to_gibbs",
    "discrete_lyapunov",
    "entropy_production",
    "excess_loss",
    "gaussian_kl",
    "gaussian_kl_to_gibbs",
    "gibbs",
    "kurtosis_edge",
    "linear_entropy_production",
    "lyapunov",
    "minimum",
    "stability_edge",
    "stationary_covariance",
    "stationary_density",
    "stationary_law",
    "stationary_mean",
    "tail_index",
    "temperature_of_loss",
    "transient",
]
