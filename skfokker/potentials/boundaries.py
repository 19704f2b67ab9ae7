"""Where V ends, on the way of the mass; and laws that have no end at all."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..seeded import Seeded
from .base import Potential
from .checks import PotentialError, _show_at

_N_AXES, _N_RAYS, _N_RADII = 64, 64, 16
_WIDTHS = 6.0  # standard deviations that are looked at
_OUT_OF_REACH = 30.0  # times beta: a rise of V that the mass does not climb
_OVERFLOW = 1e100  # V may end above this by the rounding of large numbers


@torch.no_grad()
def refuse_boundaries(
    potential: Potential, mean: Tensor, scale: Tensor, beta: float, horizon: float
) -> None:
    """Raise a PotentialError where V ends like a logarithm within reach of the mass.

    That is looked for along rays from the mean of the start, up to where pure diffusion would get
    by the horizon. A boundary counts where V rises at its very end, but at 0.97 of the way to it is
    not far above V at the mean: the laws of this package live on all of R^d, so that a march is
    crushed against it and does not end.

    Parameters
    ----------
    potential : Potential
    mean, scale : Tensor (d,), (d, d)
        Of the start, scale a root of its covariance.
    beta, horizon : float
    """
    d = len(mean)
    generator = torch.Generator().manual_seed(5)
    axes = torch.randperm(d, generator=generator)[:_N_AXES]
    rays = torch.randn(_N_RAYS, d, dtype=torch.float64, generator=generator)
    rays = torch.cat([torch.eye(d, dtype=torch.float64)[axes], rays / rays.norm(dim=1)[:, None]])
    rays = torch.cat([rays, -rays]).to(mean)
    variance = scale.square().sum(1) + 2 * beta * horizon
    rays = _WIDTHS * rays * variance.sqrt()
    share = torch.linspace(0, 1, _N_RADII + 1, dtype=torch.float64).to(mean)
    points = mean + share[:, None, None] * rays
    finite = _finite(potential, points.reshape(-1, d))[0].view(len(share), len(rays))
    if finite.all() or not finite[0, 0]:
        return  # where there is no value at the mean itself, the march says so
    ends = (~finite).any(0)
    rays, last = rays[ends], (~finite[:, ends]).double().argmax(0)
    inside, outside = share[last - 1], share[last]
    for _ in range(40):
        middle = (inside + outside) / 2
        fine = _finite(potential, mean + middle[:, None] * rays)[0]
        inside, outside = torch.where(fine, middle, inside), torch.where(fine, outside, middle)
    at_edge = _finite(potential, mean + inside[:, None] * rays)[1]
    close = _finite(potential, mean + 0.97 * inside[:, None] * rays)[1]
    rise = close - _finite(potential, mean[None])[1]
    # at a hard wall the march itself says where it was, and when
    just_before = _finite(potential, mean + (1 - 1e-6) * inside[:, None] * rays)[1]
    soft = at_edge - just_before > 0.5 * beta
    reached = soft & (rise < _OUT_OF_REACH * beta) & (at_edge.abs() < _OVERFLOW)
    if not reached.any():
        return
    k = int(torch.where(reached, rise, torch.inf).argmin())
    beyond = mean + 1.01 * outside[k] * rays[k]
    value, unit = float(potential.value_and_grad(beyond[None])[0]), potential._unit_of_energy
    end = _show_at(potential, mean + inside[k] * rays[k])
    raise PotentialError(
        f"the potential returned {'NaN' if math.isnan(value) else f'{value:g}'} at x = "
        f"{_show_at(potential, beyond)}: it ends at about {end}, within reach of "
        f"the mass by t = {horizon:g} (on the way there it rises by "
        f"{unit * float(rise[k]):.3g}, with beta = {unit * beta:g}). The laws of this package live "
        "on all of R^d. Take coordinates without a boundary, such as log x for x > 0: the "
        "equilibrium is then "
        "skfokker.bayes.sample_posterior(log_density, constraints={'x': constraints.positive}). "
        "Or go on with a steep finite slope: V(x.clamp_min(a)) + k * (a - x).relu()**2"
    )


def _finite(potential: Potential, x: Tensor) -> tuple[Tensor, Tensor]:
    """Whether V and its gradient are finite at x (n, d), and V."""
    value, gradient = potential.value_and_grad(x)
    return torch.isfinite(value) & torch.isfinite(gradient).all(1), value


@torch.no_grad()
def refuse_periodic(potential: Potential, distribution: Distribution) -> None:
    """Raise a ValueError where a density does not fall off along a coordinate.

    On any line, one that has an integral falls faster than 1 / |x| in the long run.

    Parameters
    ----------
    potential : Potential
        V = -log density of the distribution.
    distribution : Distribution
    """
    d = potential.n_features_in_
    with Seeded(0):
        try:
            x = distribution.sample().detach().double().cpu().reshape(d)
        except NotImplementedError:
            return
    generator = torch.Generator().manual_seed(6)
    axes = torch.randperm(d, generator=generator)[:_N_AXES]
    lowest = []
    for distance in (1e6, 1e12):
        shift = distance * (1 + torch.rand(16, len(axes), dtype=torch.float64, generator=generator))
        points = x + (1 + x.abs()) * shift[..., None] * torch.eye(d, dtype=torch.float64)[axes]
        lowest.append(potential(points.reshape(-1, d)).view(16, len(axes)).amin(0))
    endless = lowest[1] - lowest[0] < 0.5 * math.log(1e6)  # not so for inf and NaN
    if endless.any():
        raise ValueError(
            f"potential = {distribution!r} is periodic in coordinate {int(axes[endless][0])}, or "
            "does not fall off there: its density has no integral on R^d, so that the law would "
            "spread from one period to the next for ever. Cut it off outside one period by steep "
            "slopes, V + k * (x.abs() - pi).relu()**2 summed over the coordinates, or use "
            "skfokker.bayes.sample_posterior(log_density, constraints={'angle': "
            "constraints.interval(-math.pi, math.pi)})."
        )
