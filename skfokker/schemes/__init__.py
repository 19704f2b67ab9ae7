"""Marches of theta through time, one a file."""

from .adam_nested import AdamNested
from .base import Scheme, Step
from .dual_features import DualFeatures
from .errors import MarchError
from .euler import ForwardEuler
from .flat import FlatGradient
from .least_squares import LeastSquaresNested
from .moments import GaussianMoments
from .projected import ProjectedMetric
from .proximal import SemiImplicitNested
from .score_duals import ScoreDualNested

__all__ = [
    "AdamNested",
    "DualFeatures",
    "FlatGradient",
    "ForwardEuler",
    "GaussianMoments",
    "LeastSquaresNested",
    "MarchError",
    "ProjectedMetric",
    "Scheme",
    "ScoreDualNested",
    "SemiImplicitNested",
    "Step",
]
