"""What an equation looks like from outside: linear? which coordinates act on each other?"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..structure import Structure
from .general import GeneralFokkerPlanck

ROUNDING = 1e-7  # relative size of what is nothing in a difference
_SLIGHT = 1e-3
_PAIRS = 48


@torch.no_grad()
def probe(
    equation: GeneralFokkerPlanck,
    mean: Tensor,
    scale: Tensor,
    times,
    reached: Tensor,
    tolerance: float = ROUNDING,
) -> Structure:
    """Jacobians of the drift, and dependences of D, near the start and where particles go.

    Parameters
    ----------
    equation : GeneralFokkerPlanck
    mean, scale : Tensor (d,), (d, d)
        Of the start, scale a root of its covariance.
    times : sequence of float
    reached : Tensor (n, d)
        Where particles sent ahead are.
    tolerance : float
        Differences below this share of the largest ones are taken for rounding.

    Returns
    -------
    Structure
        ``quadratic`` where the equation is linear: drift and force between particles linear in x,
        and D the same everywhere.
    """
    d = len(mean)
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([0.0, 1.0, 1.0, 3.0, 3.0])[:, None].to(mean)
    z = torch.randn(len(sizes), d, dtype=torch.float64, generator=generator).to(mean)
    points = torch.cat([mean + (sizes * z) @ scale.T, reached[:: max(1, len(reached) // 6)][:6]])
    step = 1e-4 * scale.square().sum(1).sqrt()
    shifts = torch.diag(step)
    interacts, linear = np.zeros((d, d), dtype=bool), True
    drift, diffusion, interaction = equation.terms
    for t in times:
        equation.move_to(t)
        found = []
        for x in points:
            above, below = equation.raw_drift(torch.cat([x + shifts, x - shifts])).chunk(2)
            seen = (above - below).T / (2 * step)
            if torch.isfinite(seen).all():
                found.append(seen)
        if not found:
            return Structure(False, np.ones((d, d), dtype=bool))
        jacobians = torch.stack(found)
        # what is small beside the rate at which noise spreads may be rounding of a sum that is 0
        spreads = float((diffusion.along(points, t) / scale.square().sum(1)).abs().max())
        size = max(float(jacobians.abs().max()), _SLIGHT * spreads)
        interacts |= (jacobians.abs().amax(0) > tolerance * size).cpu().numpy()
        linear &= bool((jacobians - jacobians[0]).abs().max() <= 1e-6 * size)
        linear &= linear and _is_linear(equation, jacobians[0], mean, scale, reached, size)
        interacts |= diffusion.depends(points, t)
        if not diffusion.constant:
            values = diffusion.matrix(points, t)
            linear &= bool((values - values[:1]).abs().max() <= 1e-10 * values.abs().max())
        if interaction is not None:
            interacts, linear = _add_pairs(interaction, t, scale, interacts, linear)
    interacts |= interacts.T
    np.fill_diagonal(interacts, True)
    return Structure(bool(linear), interacts)


def _is_linear(equation, jacobian, mean, scale, reached, size) -> bool:
    """Whether the drift between distant points is what one Jacobian says."""
    generator = torch.Generator().manual_seed(1)
    d = len(mean)
    x = (
        mean
        + 2 * torch.randn(_PAIRS, d, dtype=torch.float64, generator=generator).to(mean) @ scale.T
    )
    x = torch.cat([x, reached[:_PAIRS]])
    y = x.roll(1, 0)
    b = equation.raw_drift(torch.cat([x, y]))
    if not torch.isfinite(b).all():
        return False
    at_x, at_y = b.chunk(2)
    gap = (at_x - at_y - (x - y) @ jacobian.T).abs().max()
    return bool(gap <= 1e-6 * (size * (x - y).abs().max() + 1e-300))


def _add_pairs(interaction, t, scale, interacts, linear):
    """What W adds: its Hessians at differences, and whether they are all the same."""
    d = len(scale)
    generator = torch.Generator().manual_seed(4)
    r = torch.randn(6, d, dtype=torch.float64, generator=generator).to(scale) @ scale.T
    step = 1e-4 * scale.square().sum(1).sqrt()
    shifts = torch.diag(step)
    hessians = []
    for point in r:
        above, below = interaction.slope(torch.cat([point + shifts, point - shifts]), t).chunk(2)
        hessians.append((above - below).T / (2 * step))
    hessians = torch.stack(hessians)
    size = float(hessians.abs().max())
    if size == 0:
        return interacts, linear
    interacts = interacts | (hessians.abs().amax(0) > ROUNDING * size).cpu().numpy()
    return interacts, linear and bool((hessians - hessians[0]).abs().max() <= 1e-6 * size)
