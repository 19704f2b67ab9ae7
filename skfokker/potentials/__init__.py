"""V in d rho/dt = div(rho grad V) + beta Laplacian rho: ready ones, adapters, checks."""

from .adapters import CallablePotential, DistributionPotential, NumpyPotential
from .base import Potential
from .checks import CheckedPotential, PotentialError, check_potential
from .coupled import (
    CoupledQuartic,
    GinzburgLandauChain,
    Rings,
    Rotated,
    ThreeHoles,
    WellsAndSprings,
)
from .mixture import EightModes, GaussianMixture
from .ready import DoubleWell, Quadratic, Rosenbrock, StyblinskiTang, Zero
from .targets import Funnel, ManyWell, Mustache

__all__ = [
    "CallablePotential",
    "CheckedPotential",
    "CoupledQuartic",
    "DistributionPotential",
    "DoubleWell",
    "EightModes",
    "Funnel",
    "GaussianMixture",
    "GinzburgLandauChain",
    "ManyWell",
    "Mustache",
    "NumpyPotential",
    "Potential",
    "PotentialError",
    "Quadratic",
    "Rings",
    "Rosenbrock",
    "Rotated",
    "StyblinskiTang",
    "ThreeHoles",
    "WellsAndSprings",
    "Zero",
    "check_potential",
]
