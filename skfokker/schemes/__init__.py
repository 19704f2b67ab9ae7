"""Marches of theta through time, one a file."""

from .adam_nested import AdamNested
from .base import Scheme, Step
from .euler import ForwardEuler
from .flat import FlatGradient
from .least_squares import LeastSquaresNested, MarchError

__all__ = [
    "AdamNested",
    "FlatGradient",
    "ForwardEuler",
    "LeastSquaresNested",
    "MarchError",
    "Scheme",
    "Step",
]
