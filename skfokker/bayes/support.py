"""Where a log density ends: walls coded as huge numbers, and densities without an integral."""

from __future__ import annotations

import numpy as np
import torch

from ..potentials import Potential
from ..potentials.checks import PotentialError, _show
from ..potentials.jumps import find_wall

_HIGH = 1e3  # nats below the best point: what may be a wall
_FAR = 1e6  # times the scale of the start: too far for a mode, unless shown otherwise
_FALL = 1e3  # nats


class UnboundedDensityError(PotentialError):
    """The log density grows without bound: it has no integral, and perhaps the wrong sign."""


class Supported(Potential):
    """V, infinite from a level on that it jumps to.

    Parameters
    ----------
    potential : Potential
    level : float
    """

    def __init__(self, potential: Potential, level: float):
        self.potential = potential
        self.level = level

    @property
    def n_features_in_(self) -> int:
        return self.potential.n_features_in_

    def __call__(self, x):
        value = self.potential(x)
        return torch.where(value < self.level, value, torch.inf)

    def value_and_grad(self, x):
        value, gradient = self.potential.value_and_grad(x)
        return torch.where(value < self.level, value, torch.inf), gradient


@torch.no_grad()
def with_support(potential: Potential, points: np.ndarray) -> Potential:
    """V with walls that are coded as a huge finite number (log density -1e30) made infinite.

    Parameters
    ----------
    potential : Potential
    points : ndarray (n, d)
        Some inside, and perhaps some outside the support.
    """
    if isinstance(potential, Supported):
        return potential
    x = torch.from_numpy(np.ascontiguousarray(points))
    wall = find_wall(potential, x, potential(x).double(), _HIGH)
    return potential if wall is None else Supported(potential, (wall.low + wall.high) / 2)


@torch.no_grad()
def refuse_unbounded(potential: Potential, start: np.ndarray, far: np.ndarray) -> None:
    """Raise an UnboundedDensityError where V falls for ever along neighbouring parallel lines.

    A density that grows along a single line may have an integral (a hierarchy whose scale goes to
    zero, its means being equal); one that grows along all lines of a cylinder has none.

    Parameters
    ----------
    potential : Potential
    start, far : ndarray (d,)
        A search went from one to the other, downhill.
    """
    rng = np.random.default_rng(0)
    way = far - start
    way = way / max(np.abs(way).max(), 1e-300)
    size = 1 + np.abs(start).max()
    starts = start + 0.1 * size * rng.normal(size=(15, len(way)))
    starts[0] = start
    radii = size * 10.0 ** np.arange(2, 11)
    points = starts + radii[:, None, None] * way
    try:
        with np.errstate(all="ignore"):
            value = potential(torch.from_numpy(points.reshape(-1, len(way))))
            here = float(potential(torch.from_numpy(start)[None]))
    except Exception:  # code of the user's, far away from where it has to work
        return
    values = value.double().view(len(radii), len(starts)).numpy()
    with np.errstate(all="ignore"):
        falling = ((np.diff(values, axis=0) < 0) | (values[1:] == -np.inf)).all(0)
    falling &= values[-1] < here - _FALL
    if falling.mean() < 0.9:
        return
    near, mid = (torch.from_numpy(points[k, 0]) for k in (0, 3))
    raise UnboundedDensityError(
        f"The log density grows without bound: it is {-here:.3g} at x = "
        f"{_show(torch.from_numpy(start))}, {-values[0, 0]:.3g} at {_show(near)}, "
        f"{-values[3, 0]:.3g} at {_show(mid)}, so that it has no integral. Is its sign wrong, was "
        "an energy V given where V = -log density? Then give lambda x: -V(x). Or a parameter "
        "lacks a prior."
    )
