"""Solutions to compare with: exact (Ornstein-Uhlenbeck), converged (grids), simulated."""

from .barenblatt import Barenblatt
from .finite_volumes import FiniteVolumeSolution, finite_volumes
from .finite_volumes_2d import FiniteVolumeSolution2D, finite_volumes_2d
from .langevin import langevin
from .linear_equations import LinearMoments
from .ornstein_uhlenbeck import (
    gaussian_log_density,
    kl_gaussians,
    linear_moments,
    ornstein_uhlenbeck,
)

__all__ = [
    "Barenblatt",
    "FiniteVolumeSolution",
    "FiniteVolumeSolution2D",
    "LinearMoments",
    "finite_volumes",
    "finite_volumes_2d",
    "gaussian_log_density",
    "kl_gaussians",
    "langevin",
    "linear_moments",
    "ornstein_uhlenbeck",
]
