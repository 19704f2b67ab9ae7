r"""Whether particles reach the ends of a support, by Feller's criterion.

Near an end, at a distance s from it, let D be like :math:`s^p` and let q be s b / D, b the drift
away from the end. The end is out of reach where q >= 1 or p >= 2; else particles come to it, and
stay where q <= p - 1 (W. Feller, "The parabolic differential equations and the associated
semi-groups of transformations", Annals of Mathematics 55 (1952)).
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .coordinates import InsideDrift

_NEAR, _NEARER = 1e-4, 1e-6  # distances from an end, relative to those of the points
_ROUGH = 0.05  # what exponents seen at these distances are off by
_STRAY = 1e-3  # share of particles that rough steps may take across an end
_FADES = 0.5  # exponent from which on noise is taken to fade


@torch.no_grad()
def look_at_ends(inside: InsideDrift, y: Tensor, times) -> None:
    """Refuse ends that an equation runs into, and warn of those that it reaches.

    Parameters
    ----------
    inside : InsideDrift
    y : Tensor (n, d)
        Points to look from.
    times : sequence of float

    Raises
    ------
    ValueError
        Where the drift leaves the support, or noise that does not fade reaches an end.
    """
    support, drift, diffusion = inside.chart, inside.drift, inside.diffusion.inner
    for i in range(inside.d):
        for end, inward in ((support.low[i], 1.0), (support.high[i], -1.0)):
            if math.isfinite(end):
                x = support.to_x(y)
                seen = [_rates(drift, diffusion, x, t, i, float(end), inward) for t in times]
                _judge([torch.cat(rates) for rates in zip(*seen, strict=True)], i, end)


def _rates(drift, diffusion, x, t, i, end, inward):
    """Drift away from an end and noise, at two distances from it, and the smaller one, (n,)."""
    room, seen = (x[:, i] - end).abs(), []
    for share in (_NEAR, _NEARER):
        near = x.clone()
        near[:, i] = end + inward * share * room
        noise = diffusion.along(near, t)[:, i].expand(len(x))
        seen += [inward * drift(near, t)[:, i], noise]
    return (*seen, _NEARER * room)


def _judge(rates, i, end):
    """Refuse or warn, by :func:`_rates` of coordinate i at an end."""
    b_far, noise_far, b, noise, distance = rates
    at = f"coordinate {i} at its end {end:g} of support"
    power = (noise_far / noise).log() / math.log(_NEAR / _NEARER)
    carried = (b < 0) & (b.abs() > 0.1 * b_far.abs())  # by a drift that does not fade
    if bool((carried & ((noise == 0) | (power > 2 - _ROUGH))).any()):
        raise ValueError(
            f"The drift takes {at} out of it: the law does not stay inside. Give a wider support, "
            "or none."
        )
    keeps = distance * b / noise
    reached = (noise > 0) & (keeps < 1 - _ROUGH) & (power < 2 - _ROUGH)
    if not reached.any():
        return
    fading, keeping = float(power[reached].min()), float(keeps[reached].min())
    if fading < _FADES:
        raise ValueError(
            f"Noise does not fade for {at}, and the drift does not keep particles off: they reach "
            "it, and what happens there (reflection, say) is not part of the equation. support is "
            "for ends that are out of reach: leave it out, and add a potential that rises there."
        )
    stays = keeping < fading - 1 + _ROUGH
    fate = "stay there: that part of the law has no density" if stays else "turn back"
    warnings.warn(
        f"Particles reach {at} and {fate}. The drift away from it is {max(keeping, 0.0):.2g} of "
        "what would keep them off, and the law has a long tail there in the coordinates of the "
        "march, which makes the fit fragile: trust it as far as certificate_ does.",
        UserWarning,
        stacklevel=2,
    )


@torch.no_grad()
def missing_support(equation: Any, seen: np.ndarray) -> str | None:
    """A sentence where particles keep to one side of 0, where their noise fades; otherwise None.

    Parameters
    ----------
    equation : FokkerPlanck or GeneralFokkerPlanck
    seen : ndarray (k, n, d)
        Particles at k times.
    """
    if equation.homogeneous or isinstance(equation.terms[0], InsideDrift):
        return None
    x = torch.from_numpy(seen[-1])
    share = np.abs(np.sign(seen).mean((0, 1)))  # 1 where all are on one side
    for i in np.flatnonzero(share > 1 - 2 * _STRAY):
        near = x.clone()
        near[:, i] *= _NEAR
        there, here = (equation.spread_along(points)[:, i].mean() for points in (near, x))
        if there < 0.1 * here:
            ends = "(0, inf)" if seen[-1, :, i].mean() > 0 else "(-inf, 0)"
            return (
                f"particles of coordinate {i} keep to one side of 0, where their noise fades: "
                f"Equation(..., support={ends}) would solve it in log |x|, and keep the law there"
            )
    return None
