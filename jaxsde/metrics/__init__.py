"""How far apart two laws are: each answer is an Estimate that names its estimator, or says why it cannot know."""

from .distances import MomentDistance, moment_distance, total_variation
from .kl import kl_between, kl_to_gibbs
from .passage import PassageTimes, passage_times
from .temperature import fit_temperature

__all__ = [
    "MomentDistance", "PassageTimes", "fit_temperature", "kl_between", "kl_to_gibbs", "moment_distance", "passage_times",
    "total_variation",
]  # fmt: skip
