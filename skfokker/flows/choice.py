"""The default family of maps, by what is known of the problem."""

from __future__ import annotations

from .affine import AffineFlow
from .base import Flow
from .composition import Composition
from .conditional import ConditionalFlow
from .elementwise import ElementwiseFlow
from .inverse import Inverse
from .mixture import MixtureFlow


def choose_flow(
    structure, *, gaussian: bool = True, diagonal: bool = True, parts: int = 1, capacity: int = 1
) -> tuple[Flow, str]:
    """The map that suits a potential of the given structure, and why.

    - quadratic V, Gaussian start: affine, which is exact (section 3.4);
    - V a sum over coordinates: one monotone spline a coordinate, parametrised on the side of
      the data, behind a diagonal affine map;
    - mass that ends in several modes: a mixture of Gaussians;
    - otherwise: conditional densities, one coordinate given those before it.

    Parameters
    ----------
    structure : Structure
        See :func:`skfokker.structure.probe`.
    gaussian : bool
        Whether rho_0 is a Gaussian.
    diagonal : bool
        Whether rho_0 has independent coordinates.
    parts : int
        Gaussians that describe what the particles come to that were sent ahead; 1 where V has one
        mode.
    capacity : int
        Multiplies the size of the family.
    """
    separable = structure.separable and diagonal
    if structure.quadratic and gaussian:
        return AffineFlow(diagonal=separable), "flow: V is quadratic, where affine maps are exact"
    if separable:
        layers = [
            Inverse(ElementwiseFlow(n_intervals=48 * capacity, radius=6.0)),
            AffineFlow(diagonal=True),
        ]
        return Composition(layers), "flow: V is a sum over coordinates, one spline for each"
    d = len(structure.interacts)
    if parts > 1:
        if d <= 3:  # there parts overlap on their way, and more of them follow it better
            parts = max(3 * parts // 2, min(5 * parts // 2, 16))
        reason = f"flow: particles sent ahead end in modes that {parts} Gaussians describe"
        return MixtureFlow(capacity * parts), reason
    return ConditionalFlow(), "flow: coordinates interact"
