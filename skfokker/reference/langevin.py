"""Particles of the Langevin equation: what the Fokker-Planck equation is the law of."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ..dynamics.drift import Interaction
from ..dynamics.reading import read_support
from .fields import Fields, read

_BATCH = 64  # particles that act on each other within a step
_PAIRS = 2**20  # pairs of them at a time


def langevin(
    potential,
    times: ArrayLike,
    *,
    beta: float = 1.0,
    x0: ArrayLike | None = None,
    n_particles: int = 10_000,
    n_features: int | None = None,
    n_steps: int = 1000,
    seed: int = 0,
    tamed: bool = False,
    weak_order: int = 1,
) -> np.ndarray:
    """Particles of dX = -grad V dt + sqrt(2 beta) dB, or of any equation, whose law is rho_t.

    Particles that interact do so in batches of 64, drawn anew in every step (S. Jin, L. Li and
    J.-G. Liu, Journal of Computational Physics 400 (2020)), or, where the force is linear, through
    the mean of all.

    Parameters
    ----------
    potential : Potential, callable or Equation
        V, V(x, t), or an equation with any drift, diffusion and interaction.
    times : float or array-like (k,)
        When to look: ascending, at least 0.
    beta : float
        Diffusion coefficient, where an equation does not say it.
    x0 : array-like (n, d), optional
        Particles at t = 0; by default ``n_particles`` draws from N(0, I). Where the equation has
        a support these are draws of y, and steps are made in y.
    n_particles, n_features : int
        Used where ``x0`` is None (``n_features`` only where the potential does not say it).
    n_steps : int
        Steps from 0 to the last time, spread evenly (at least one between two times). The law
        is off by O(n_steps^-weak_order).
    seed : int
        Of the generator (CPU).
    tamed : bool
        Divide the drift by 1 + h |b|, which keeps steep potentials from exploding (M. Hutzenthaler
        et al., Annals of Applied Probability 22 (2012)). Of order 1.
    weak_order : {1, 2}
        1 is Euler-Maruyama. 2 averages the drift here and at the Euler-Maruyama step, two
        gradients a step (P. E. Kloeden and E. Platen, "Numerical Solution of Stochastic
        Differential Equations", section 15.1, for additive noise).

    Returns
    -------
    ndarray (k, n, d), or (n, d) for a single time

    Raises
    ------
    ValueError
        Where times are not ascending, particles run off to infinity (too few steps), or steps of
        order 2 are asked for with noise that depends on place.
    """
    stops = np.atleast_1d(np.asarray(times, dtype=float))
    if stops.ndim > 1 or not (np.diff(stops, prepend=0.0) >= 0).all():
        raise ValueError(f"times must be ascending and at least 0, got {times!r}")
    if n_steps < 1:
        raise ValueError(f"n_steps must be at least 1, got {n_steps!r}")
    if weak_order not in (1, 2) or (tamed and weak_order == 2):
        raise ValueError(
            f"weak_order must be 1 or 2, and 1 where tamed, got {weak_order!r} with tamed={tamed!r}"
        )
    generator = torch.Generator().manual_seed(seed)
    x = None
    if x0 is not None:
        x = torch.tensor(np.asarray(x0), dtype=torch.float64)
        if x.ndim != 2:
            raise ValueError(f"x0 must have shape (n, d), got {tuple(x.shape)}")
        n_features = x.shape[1]
    given, beta = read(potential, n_features, beta, float(stops[-1]), inside=True)
    if isinstance(given, Fields):
        d, pull, noise = given.d, _field(given, generator), _noise(given, weak_order)
    else:
        d = given.n_features_in_

        def pull(x: Tensor, t: float) -> Tensor:
            return given.value_and_grad(x)[1]

        def noise(x: Tensor, t: float, h: float, xi: Tensor) -> Tensor:
            return math.sqrt(2 * beta * h) * xi

    support = read_support(potential, d)
    if x is None:
        x = torch.randn(n_particles, d, dtype=torch.float64, generator=generator)
    elif support is not None:
        if not support.contains(x).all():
            raise ValueError(f"x0 must lie inside the support {support} of the equation")
        x = support.to_y(x)
    seen, now = [], 0.0
    for stop in stops:
        if stop > now:
            steps = max(1, math.ceil(n_steps * (stop - now) / stops[-1] - 1e-9))
            h = (stop - now) / steps
            for k in range(steps):
                t = now + k * h
                xi = torch.randn(x.shape, dtype=torch.float64, generator=generator)
                slope = pull(x, t)
                if tamed:
                    slope = slope / (1 + h * slope.norm(dim=1, keepdim=True))
                new = x - h * slope + noise(x, t, h, xi)
                if weak_order == 2:
                    new = new - 0.5 * h * (pull(new, t + h) - slope)
                x = new
            now = stop
        if not torch.isfinite(x).all():
            raise ValueError(
                f"particles ran off to infinity before t = {stop:g} with n_steps={n_steps}; "
                f"the explicit step is too long for this potential, try n_steps={4 * n_steps} or "
                f"tamed=True"
            )
        seen.append((x if support is None else support.to_x(x)).numpy())
    return seen[0] if np.ndim(times) == 0 else np.stack(seen)


def _field(fields: Fields, generator: torch.Generator) -> Callable[[Tensor, float], Tensor]:
    """Minus the drift of particles (n, d) at time t, their forces on each other with it."""
    if fields.interaction is None:
        return lambda x, t: -fields.drift(x, t)
    force = _mean_force if _is_linear(fields.interaction, fields.d) else _batch_force
    return lambda x, t: -fields.drift(x, t) - force(fields.interaction, x, t, generator)


def _noise(fields: Fields, weak_order: int) -> Callable[[Tensor, float, float, Tensor], Tensor]:
    """sigma sqrt(h) xi, sigma in the middle of the step where that is of second order."""
    diffusion = fields.diffusion
    if weak_order == 1:
        return lambda x, t, h, xi: math.sqrt(h) * diffusion.noise(x, t, xi)
    if not diffusion.constant:
        raise ValueError(
            "weak_order=2 is for noise that is the same everywhere; this diffusion is a function "
            "of x, take weak_order=1"
        )
    return lambda x, t, h, xi: math.sqrt(h) * diffusion.noise(x, t + h / 2, xi)


def _is_linear(interaction: Interaction, d: int, times=(0.0, 0.37)) -> bool:
    """Whether the force between two particles is linear in their difference."""
    generator = torch.Generator().manual_seed(5)
    r = 3 * torch.randn(2, 16, d, dtype=torch.float64, generator=generator)
    for t in times:
        first, second, both = (interaction.slope(part, t) for part in (r[0], r[1], r.sum(0)))
        if (both - first - second).abs().max() > 1e-9 * both.abs().max():
            return False
    return True


def _mean_force(interaction, x, t, generator):
    return -interaction.slope(x - x.mean(0), t)


def _batch_force(interaction, x, t, generator):
    """-mean grad W(x_i - x_j) over the others j of a random batch."""
    n, d = x.shape
    size = min(_BATCH, n)
    order = torch.randperm(n, generator=generator)
    batches, rest = order[: n - n % size].view(-1, size), order[n - n % size :]
    out = torch.empty_like(x)
    for some in batches.split(max(1, _PAIRS // size**2)):
        mine = x[some]
        slopes = interaction.slope((mine[:, :, None] - mine[:, None]).reshape(-1, d), t)
        # a particle exerts no force on itself: the mean is over the others
        out[some] = -slopes.view(*mine.shape[:2], size, d).sum(2) / max(1, size - 1)
    if len(rest):
        out[rest] = interaction.force(x[rest], x[batches[0]], t)
    return out
