"""V in d rho/dt = div(rho grad V) + beta Laplacian rho: ready ones, adapters, checks."""

from .adapters import CallablePotential, DistributionPotential, NumpyPotential
from .base import Potential
from .checks import CheckedPotential, PotentialError, check_potential
from .mixture import EightModes, GaussianMixture
from .ready import DoubleWell, Quadratic, Rosenbrock, StyblinskiTang, Zero
from .targets import Funnel, ManyWell, Mustache

__all__ = [
    "CallablePotential",
    "CheckedPotential",
    "DistributionPotential",
    "DoubleWell",
    "EightModes",
    "Funnel",
    "GaussianMixture",
    "ManyWell",
    "Mustache",
    "NumpyPotential",
    "Potential",
    "PotentialError",
    "Quadratic",
    "Rosenbrock",
    "StyblinskiTang",
    "Zero",
    "check_potential",
]
