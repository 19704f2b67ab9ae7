"""Gradients that are not those of the potential: jumps, which they do not show, and mistakes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Potential
from .checks import PotentialError, _show, located, rounding

_N_PAIRS = 512
_LENGTH = 0.1  # of a pair of neighbours, in standard deviations a coordinate
_N_SUSPECTS = 16
_HALVINGS = 40


@dataclass(frozen=True)
class Jump:
    """V rises by ``height`` (> 0) at the point ``at`` (d,), in the coordinates of the user."""

    height: float
    at: Tensor

    def __str__(self):
        return (
            f"the potential jumps by {self.height:.2g} at x = {_show(self.at)}, and its gradient "
            "does not show that: the equation would be solved as if there were no jump. Make it a "
            "steep slope, for instance height * torch.sigmoid(distance / width)"
        )


@torch.no_grad()
def find_jump(potential: Potential, x: Tensor, scale: Tensor, beta: float) -> Jump | None:
    """A jump of V by more than beta / 100 between points x (n, d) and neighbours of theirs.

    The rise of V along a segment is compared with the integral of its gradient (Simpson's rule).
    Where they differ the segment is halved, and its halves again: on smooth functions and on kinks
    the difference vanishes, on a jump it stays.

    Parameters
    ----------
    potential : Potential
        It is called once, and at suspect points up to 40 times more.
    x : Tensor (n, d)
    scale : Tensor (d, d)
        A root of the covariance of the x.
    beta : float
        Diffusion coefficient: the size of a V that matters.
    """
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(x.shape, dtype=torch.float64, generator=generator)
    a, b = x, x + _LENGTH * z.to(x) @ scale.T
    unit = potential._unit_of_energy
    for _ in range(_HALVINGS + 1):
        middle = (a + b) / 2
        value, gradient = potential.value_and_grad(torch.cat([a, middle, b]))
        at_a, at_middle, at_b = value.view(3, -1)
        slope = (gradient.view(3, *a.shape) * (b - a)).sum(2)
        unexplained = (at_b - at_a - (slope[0] + 4 * slope[1] + slope[2]) / 6).abs()
        unexplained = torch.where(torch.isfinite(unexplained), unexplained, 0.0)
        noise = 100 * rounding(value * unit) * (at_a.abs() + at_b.abs())
        suspect = unexplained > 0.01 * beta + noise
        if not suspect.any():
            return None
        worst = torch.where(suspect, unexplained, 0.0).topk(min(_N_SUSPECTS, len(a))).indices
        a, b, middle = a[worst], b[worst], middle[worst]
        height = unit * float(unexplained[worst[0]])
        at = located(potential, middle[:1])[0]
        a, b = torch.cat([a, middle]), torch.cat([middle, b])
    return Jump(height, at)


@dataclass(frozen=True)
class Wall:
    """V jumps from ``low`` to ``high`` at the point ``at`` (d,): most of its range over points."""

    low: float
    high: float
    at: Tensor


@torch.no_grad()
def find_wall(potential: Potential, x: Tensor, value: Tensor, least: float) -> Wall | None:
    """A wall of finite height on the way from the lowest to the highest of the points x (n, d).

    The segment is halved to where V rises through the middle of its range; where a tenth of the
    range is left at one place, that is a wall, such as one coded as V = 1e30 outside.

    Parameters
    ----------
    potential : Potential
        It is called for up to 50 points, one by one.
    x, value : Tensor (n, d), (n,)
        Points, and V there.
    least : float
        A range of V that no wall has to be looked for in.
    """
    finite = torch.isfinite(value)
    if not finite.any():
        return None
    bottom, top = float(value[finite].min()), float(value[finite].max())
    if not top - bottom > least:
        return None
    low = x[torch.where(finite, value, torch.inf).argmin()]
    high = x[torch.where(finite, value, -torch.inf).argmax()]
    at_low, at_high = bottom, top
    for k in range(50):
        middle = (low + high) / 2
        here = float(potential(middle[None]))
        if here - bottom > 0.5 * (top - bottom):
            high, at_high = middle, here
        else:
            low, at_low = middle, here
        if k >= 20 and not at_high - at_low > 0.1 * (top - bottom):
            return None
    return Wall(at_low, at_high, low)


def refuse_jumps(potential: Potential, mean: Tensor, scale: Tensor, beta: float) -> None:
    """Raise a PotentialError where V jumps within N(mean, scale scale^T)."""
    d = len(mean)
    z = torch.randn(_N_PAIRS, d, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    x = mean + z.to(mean) @ scale.T
    jump = find_jump(potential, x, scale, beta)
    if jump is None:  # few of the pairs may stand on either side of a wall
        wall = find_wall(potential, x, potential.value_and_grad(x)[0], 1e3 * beta)
        if wall is not None:
            height = potential._unit_of_energy * (wall.high - wall.low)
            jump = Jump(height, located(potential, wall.at[None])[0])
    if jump is not None:
        raise PotentialError(str(jump))


@torch.no_grad()
def refuse_wrong_gradients(potential: Potential, mean: Tensor, scale: Tensor) -> None:
    """Raise a ValueError where the gradient is nowhere that of the values, as if by a mistake.

    Central differences along one direction at each of 16 points; a few that do not agree are
    kinks.
    """
    generator = torch.Generator().manual_seed(4)
    z, u = torch.randn(2, 16, len(mean), dtype=torch.float64, generator=generator).to(mean)
    x = mean + z @ scale.T
    wrong = torch.ones(len(x), dtype=torch.bool, device=x.device)
    unit = potential._unit_of_energy
    for length in (1e-3, 1e-6):  # rough ones need the short step, rounded ones the long one
        step = length * u @ scale.T
        value, gradient = potential.value_and_grad(torch.cat([x + step, x, x - step]))
        above, here, below = value.view(3, -1)
        gradient = gradient.view(3, *x.shape)[1]
        slope, rise = (gradient * step).sum(1), (above - below) / 2
        size = gradient.norm(dim=1) * step.norm(dim=1)
        wrong = wrong & (
            (rise - slope).abs() > 1e-2 * size + 10 * rounding(value * unit) * here.abs()
        )
    if wrong.double().mean() > 0.7:
        k = int(wrong.nonzero()[0, 0])
        ends = located(potential, torch.stack([x[k], x[k] + step[k]]))
        length = float((ends[1] - ends[0]).norm()) / unit
        raise ValueError(
            f"the gradient of the potential is not that of its values: at x = {_show(ends[0])} the "
            f"slope along a direction is {float(slope[k]) / length:.4g} by the gradient and "
            f"{float(rise[k]) / length:.4g} by differences; correct the gradient"
        )
