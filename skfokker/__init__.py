"""High-dimensional Fokker-Planck equations with normalizing flows, in the scikit-learn style."""

from __future__ import annotations

from . import forks  # noqa: F401  (what it does at import is all)
from ._version import __version__
from .densities import GaussianDensity
from .distribution import TransportedNormal
from .dynamics import Equation
from .estimator import ParametricFokkerPlanck
from .initial import Gaussian
from .trajectory import Trajectory

__all__ = [
    "Equation",
    "Gaussian",
    "GaussianDensity",
    "ParametricFokkerPlanck",
    "Trajectory",
    "TransportedNormal",
    "__version__",
]
