"""Invertible maps T_theta, one family a file."""

from .affine import AffineFlow
from .base import AutogradLinearization, Flow, Linearization
from .composition import Composition
from .elementwise import ElementwiseFlow
from .inverse import Inverse
from .triangular import TriangularFlow

__all__ = [
    "AffineFlow",
    "AutogradLinearization",
    "Composition",
    "ElementwiseFlow",
    "Flow",
    "Inverse",
    "Linearization",
    "TriangularFlow",
]
