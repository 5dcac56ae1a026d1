"""What should come out: minima, Gibbs laws, stationary laws, stability and currents, in float64 from the very objects that run.

Read in this order: `float64` (how a loss is evaluated), `checks`, `minimum`, `linear` (second-moment equations), `linearise` with
`examples` and `updates` (A, C and F of an object); then a folder for each kind of answer, in the words of its `__init__.py`:

| folder | what comes out |
|---|---|
| laws/ | Gibbs laws and stationary densities, and how far one is from the other |
| moments/ | means and covariances of chains and SDEs, stationary or not, and where they cease to exist |
| diffusion/ | the Fokker–Planck equation: density, currents, entropy production, rates |
| discrete/ | the law of a chain as it is, from its transfer operator |
| escape/ | times of first passage |
"""

from .diffusion.currents import area_rates, entropy_production, linear_entropy_production
from .diffusion.fokker_planck import Evolution, FokkerPlanck, fokker_planck
from .diffusion.refined import Refined
from .discrete.chain_law import CellKl, TransferOperator, transfer_operator
from .escape.times import Escape, PassageTime, eyring_kramers, kramers, mean_first_passage
from .laws.density import GaussianDensity, LineDensity, stationary_density
from .laws.gaussian import best_temperature, gaussian_kl, gaussian_kl_to_gibbs
from .laws.gibbs import Gibbs, gibbs
from .laws.temperature import density_kl_to_gibbs, temperature_of_loss
from .linear import discrete_lyapunov, lyapunov
from .minimum import minimum
from .moments.edge import stability_edge
from .moments.kurtosis import kurtosis_edge
from .moments.stationary import StationaryLaw, stationary_covariance, stationary_law, stationary_mean
from .moments.tail import tail_index
from .moments.transient import Transient, excess_loss, transient

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
