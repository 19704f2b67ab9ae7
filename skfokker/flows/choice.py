"""The default family of maps, by what is known of the problem."""

from __future__ import annotations

from .affine import AffineFlow
from .base import Flow
from .composition import Composition
from .elementwise import ElementwiseFlow
from .inverse import Inverse
from .triangular import TriangularFlow


def choose_flow(
    structure, *, gaussian: bool = True, diagonal: bool = True, capacity: int = 1
) -> Flow:
    """The map that suits a potential of the given structure.

    - quadratic V, Gaussian start: affine, which is exact (section 3.4);
    - V a sum over coordinates: one monotone spline a coordinate, parametrised on the side of
      the data, behind a diagonal affine map;
    - otherwise: triangular maps in both orders between splines, all on the side of the data,
      before an affine map.

    Parameters
    ----------
    structure : Structure
        See :func:`skfokker.structure.probe`.
    gaussian : bool
        Whether rho_0 is a Gaussian.
    diagonal : bool
        Whether rho_0 has independent coordinates.
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
    n_hidden = capacity * max(32, 3 * len(structure.interacts))
    return Composition(
        [
            Inverse(ElementwiseFlow(n_intervals=16 * capacity)),
            Inverse(TriangularFlow(n_hidden)),
            Inverse(TriangularFlow(n_hidden, reverse=True)),
            Inverse(ElementwiseFlow(n_intervals=16 * capacity)),
            AffineFlow(),
        ]
    )
