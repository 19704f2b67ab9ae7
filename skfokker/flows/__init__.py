"""Invertible maps T_theta, one family a file."""

from .affine import AffineFlow
from .base import AutogradLinearization, Flow, Linearization
from .choice import choose_flow
from .composition import Composition
from .conditional import ConditionalFlow
from .elementwise import ElementwiseFlow
from .frame import Frame
from .inverse import Inverse
from .mixture import MixtureFlow
from .planar import PlanarFlow
from .radial import RadialFlow
from .scale import ScaleFlow
from .support import SupportMap
from .triangular import TriangularFlow
from .zuko import ZukoFlow

__all__ = [
    "AffineFlow",
    "AutogradLinearization",
    "Composition",
    "ConditionalFlow",
    "ElementwiseFlow",
    "Flow",
    "Frame",
    "Inverse",
    "Linearization",
    "MixtureFlow",
    "PlanarFlow",
    "RadialFlow",
    "ScaleFlow",
    "SupportMap",
    "TriangularFlow",
    "ZukoFlow",
    "choose_flow",
]
