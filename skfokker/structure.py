"""What a potential looks like from outside: constant curvature? which coordinates interact?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor

_ROUNDING = 1e-13  # relative size of what is rounding in a gradient


@dataclass(frozen=True)
class Structure:
    """What finite differences of grad V at a few points showed.

    Attributes
    ----------
    quadratic : bool
        The Hessian was the same everywhere.
    interacts : ndarray (d, d) of bool
        Whether d^2 V / dx_i dx_j was seen to be nonzero.
    convexity : float or None
        The lowest eigenvalue of a constant Hessian: lambda with Hess V >= lambda.
    """

    quadratic: bool
    interacts: np.ndarray
    convexity: float | None = None

    @property
    def separable(self) -> bool:
        """Whether V was a sum of functions of one coordinate each."""
        return not (self.interacts & ~np.eye(len(self.interacts), dtype=bool)).any()


def probe(
    potential,
    mean: Tensor,
    scale: Tensor,
    n_points: int = 6,
    tolerance: float = 1e-6,
    ahead: Tensor | None = None,
) -> Structure:
    """Look at the Hessian of V near the initial law, and where its mass goes.

    The points are the mean and random points at one and at three standard deviations, fixed:
    the answer depends on the potential alone. It serves to choose a family of maps and a
    quadrature; where it misses an interaction that appears elsewhere, the residual and the
    certificate show it.

    Parameters
    ----------
    potential : Potential
    mean, scale : Tensor (d,), (d, d)
        Of the initial law, scale a root of its covariance.
    n_points : int
        Number of points; 2 d n_points gradients are evaluated.
    tolerance : float
        Differences below this share of the largest ones are taken for rounding.
    ahead : Tensor (n, d), optional
        Where particles are later.
    """
    d = len(mean)
    if ahead is None:
        ahead = mean.new_zeros(0, d)
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(n_points, d, dtype=torch.float64, generator=generator).to(mean)
    sizes = torch.tensor([0.0, 1.0, 3.0]).repeat(n_points)[:n_points, None].to(mean)
    points = torch.cat([mean + (sizes * directions) @ scale.T, ahead[:n_points]])
    width = scale.diagonal().abs().mean()
    if len(ahead):  # a start may be nearly a point
        width = torch.maximum(width, (ahead - mean).square().mean().sqrt())
    eps = 1e-4 * width
    shifts = eps * torch.eye(d).to(mean)
    found, steepest = [], 0.0
    for x in points:
        gradient = potential.value_and_grad(torch.cat([x + shifts, x - shifts]))[1]
        seen = (gradient[:d] - gradient[d:]) / (2 * eps)
        if torch.isfinite(seen).all():
            found.append(seen)
            steepest = max(steepest, float(gradient.abs().amax()))
    if len(found) < 2:
        return Structure(False, np.ones((d, d), dtype=bool))
    hessians = torch.stack(found)
    # of a constant force differences are rounding alone
    nothing = torch.maximum(tolerance * hessians.abs().amax(), _ROUNDING * steepest / eps)
    interacts = hessians.abs().amax(0) > nothing
    constant = bool((hessians - hessians[0]).abs().amax() <= nothing)
    hessian = hessians[0] if constant else None
    # a potential of pieces (wells far apart) looks simple wherever one of them is alone
    if not _holds_at_a_distance(potential, mean, scale, interacts, hessian, tolerance, ahead):
        return Structure(False, np.ones((d, d), dtype=bool))
    convexity = float(torch.linalg.eigvalsh(hessian)[0]) if constant else None
    return Structure(constant, interacts.cpu().numpy(), convexity)


def probe_in_time(potential, mean: Tensor, scale: Tensor, times) -> Structure:
    """What :func:`probe` sees of V(x, t) at several times, put together."""
    seen = []
    for t in times:
        potential.time = t
        seen.append(probe(potential, mean, scale))
    potential.time = 0.0
    together = np.logical_or.reduce([one.interacts for one in seen])
    return Structure(all(one.quadratic for one in seen), together)


def _holds_at_a_distance(
    potential, mean, scale, interacts, hessian, tolerance, ahead, n_points: int = 64
) -> bool:
    """Whether gradients at distant points are what the Hessians seen say of them.

    A constant Hessian makes the gradient linear; coordinates that do not interact leave each
    other's part of the gradient alone when they are exchanged between points.
    """
    d = len(mean)
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, n_points, d, dtype=torch.float64, generator=generator).to(mean)
    x, y = mean + 1.5 * x @ scale.T, mean + 1.5 * y @ scale.T
    x, y = torch.cat([x, ahead]), torch.cat([y, ahead.roll(1, 0)])
    swap = (torch.rand(len(x), d, generator=generator) < 0.5).to(x.device)
    z = torch.where(swap, x, y)
    gradients = potential.value_and_grad(torch.cat([x, y, z]))[1].view(3, len(x), d)
    finite = torch.isfinite(gradients).all(2).all(0)
    if not finite.any():
        return True  # nothing to be seen there; the march complains where it matters
    (at_x, at_y, at_z), x, y, swap = gradients[:, finite], x[finite], y[finite], swap[finite]
    close = tolerance * gradients.abs().amax()
    if hessian is not None:
        return bool(((at_x - at_y) - (x - y) @ hessian).abs().amax() <= close)
    alone = interacts.sum(1) == 1
    gap = (at_z - torch.where(swap, at_x, at_y)).abs()[:, alone]
    return gap.numel() == 0 or bool(gap.amax() <= close)


def ties(interacts: np.ndarray, covariance: Tensor) -> np.ndarray:
    """Which coordinates depend on each other directly, in V or at the start: (d, d) of bool.

    Parameters
    ----------
    interacts : ndarray (d, d) of bool
        See :class:`Structure`.
    covariance : Tensor (d, d)
        Of the start.
    """
    scale = covariance.diagonal().sqrt()
    linked = (covariance.abs() > 1e-9 * scale.outer(scale)).cpu().numpy()
    return (interacts | linked) & ~np.eye(len(linked), dtype=bool)


def components(interacts: np.ndarray, covariance: Tensor) -> list[np.ndarray]:
    """Coordinates that depend on each other, directly or through others: a partition of them.

    Arguments as for :func:`ties`.
    """
    label = connected_components(ties(interacts, covariance), directed=False)[1]
    return [np.flatnonzero(label == k) for k in range(label.max() + 1)]
