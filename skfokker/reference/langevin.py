"""Particles of the Langevin equation: what the Fokker-Planck equation is the law of."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import ArrayLike

from ..potentials import check_potential


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
    """Particles of dX = -grad V dt + sqrt(2 beta) dB, whose law is rho_t.

    Parameters
    ----------
    potential : Potential or callable
        V.
    times : float or array-like (k,)
        When to look: ascending, at least 0.
    beta : float
        Diffusion coefficient.
    x0 : array-like (n, d), optional
        Particles at t = 0; by default ``n_particles`` draws from N(0, I).
    n_particles, n_features : int
        Used where ``x0`` is None (``n_features`` only where the potential does not say it).
    n_steps : int
        Steps from 0 to the last time, spread evenly (at least one between two times). The law
        is off by O(n_steps^-weak_order).
    seed : int
        Of the generator (CPU).
    tamed : bool
        Divide the drift by 1 + h |grad V|, which keeps steep potentials from exploding (M.
        Hutzenthaler et al., Annals of Applied Probability 22 (2012)). Of order 1.
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
        Where times are not ascending, or particles run off to infinity (too few steps).
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
    if x0 is not None:
        x = torch.tensor(np.asarray(x0), dtype=torch.float64)
        if x.ndim != 2:
            raise ValueError(f"x0 must have shape (n, d), got {tuple(x.shape)}")
        potential = check_potential(potential, x.shape[1], beta)
    else:
        potential = check_potential(potential, n_features, beta)
        d = potential.n_features_in_
        x = torch.randn(n_particles, d, dtype=torch.float64, generator=generator)
    seen, now = [], 0.0
    for stop in stops:
        if stop > now:
            steps = max(1, math.ceil(n_steps * (stop - now) / stops[-1] - 1e-9))
            h = (stop - now) / steps
            kick = math.sqrt(2 * beta * h)
            for _ in range(steps):
                noise = torch.randn(x.shape, dtype=torch.float64, generator=generator)
                pull = potential.value_and_grad(x)[1]
                if tamed:
                    pull = pull / (1 + h * pull.norm(dim=1, keepdim=True))
                new = x - h * pull + kick * noise
                if weak_order == 2:
                    new = new - 0.5 * h * (potential.value_and_grad(new)[1] - pull)
                x = new
            now = stop
        if not torch.isfinite(x).all():
            raise ValueError(
                f"particles ran off to infinity before t = {stop:g} with n_steps={n_steps}; "
                f"the explicit step is too long for this potential, try n_steps={4 * n_steps} or "
                f"tamed=True"
            )
        seen.append(x.numpy())
    return seen[0] if np.ndim(times) == 0 else np.stack(seen)
