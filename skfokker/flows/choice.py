"""The default family of maps, by what is known of the problem."""

from __future__ import annotations

from .affine import AffineFlow
from .base import Flow
from .composition import Composition
from .elementwise import ElementwiseFlow
from .inverse import Inverse
from .mixture import MixtureFlow
from .triangular import TriangularFlow


def choose_flow(
    structure, *, gaussian: bool = True, diagonal: bool = True, parts: int = 1, capacity: int = 1
) -> Flow:
    """The map that suits a potential of the given structure.

    - quadratic V, Gaussian start: affine, which is exact (section 3.4);
    - V a sum over coordinates: one monotone spline a coordinate, parametrised on the side of
      the data, behind a diagonal affine map;
    - mass that ends in several modes: a mixture of Gaussians;
    - otherwise: triangular maps in both orders between splines, all on the side of the data,
      before an affine map; in up to four dimensions with more of them in reserve.

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
        return AffineFlow(diagonal=separable)
    if separable:
        return Composition(
            [
                Inverse(ElementwiseFlow(n_intervals=48 * capacity, radius=6.0)),
                AffineFlow(diagonal=True),
            ]
        )
    d = len(structure.interacts)
    if parts > 1:
        if d <= 3:  # there parts overlap on their way, and more of them follow it better
            parts = max(3 * parts // 2, min(5 * parts // 2, 16))
        return MixtureFlow(capacity * parts)
    n_hidden = capacity * max(24, 3 * d)
    n_reserve = 3 if d <= 4 else 0
    layers = [
        Inverse(ElementwiseFlow(n_intervals=16 * capacity)),
        Inverse(TriangularFlow(n_hidden)),
        Inverse(TriangularFlow(n_hidden, reverse=True)),
        Inverse(ElementwiseFlow(n_intervals=16 * capacity)),
    ]
    for _ in range(n_reserve):
        for reverse in (False, True):
            layers.append(Inverse(TriangularFlow(16 * capacity, reverse, reserve=True)))
    return Composition([*layers, AffineFlow()])
