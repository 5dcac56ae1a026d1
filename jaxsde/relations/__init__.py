"""Relations that hold at stationarity, each a streaming check with a z-score: what a chain must obey, whatever its law looks like.

    run = js.simulate(chain, start, statistics=js.relations.statistics(chain), …)
    print(js.relations.check(run))

| file | a theorem for | relations |
|---|---|---|
| moments.py | plain SGD, SVAG, Euler–Maruyama, at any step | stationary_gradient, yaida, yaida_matrix; quadratic: yaida_hessian |
| | the heavy ball in both conventions, at any step | yaida_momentum, …_matrix, velocity_balance; quadratic: …_hessian |
| | SGD with any linear optimiser, Euler–Maruyama | second_moments |
| generator.py | an SDE: ExactLinear, others up to their bias | fluctuation_dissipation, loss_dissipation |
| gibbs.py | Langevin, up to its scheme's bias | virial, stein_position, stein_gradient, stein_bounded, equipartition |
| | the same with momenta in sight | kinetic_equipartition |
| fluctuation.py | Gaussian steps of known stationary density | integral_fluctuation, detailed_fluctuation, entropy_production |

`refusals(chain)` says, in a sentence each, why the others are none for a chain.
"""

from .balance import Balance, Row
from .check import Report, check, refusals, relation, statistics
from .fluctuation import FLUCTUATION, PathEntropy, path_entropy
from .generator import GENERATOR
from .gibbs import GIBBS_IDENTITIES
from .moments import MOMENTS

RELATIONS = MOMENTS | GENERATOR | GIBBS_IDENTITIES | FLUCTUATION

__all__ = [
    "RELATIONS",
    "Balance",
    "PathEntropy",
    "Report",
    "Row",
    "check",
    "path_entropy",
    "refusals",
    "relation",
    "statistics",
]
