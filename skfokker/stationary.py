r"""At rest in law: what ``t_final="stationary"`` waits for.

The distance of two laws is the root of J = KL(p | q) + KL(q | p), which for close ones is their
distance in the Fisher norm. With a the largest distance from the end of the march over its last
half, and b that over its last quarter, a law that comes to rest like exp(-lambda t) has

    b / a = q / (1 + q) ,   q = exp(-lambda T / 4) ,

and what is left to go is b q / (1 - q). At rest is a march where the smaller of that and a is worth
less than a hundredth of ``tol`` nats (half its square); or one whose distances do not grow with
time, being noise of its points, and are worth less than ``tol``.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.linalg import expm, solve_continuous_lyapunov
from torch import Tensor

from .equation import FokkerPlanck
from .fit import Fit
from .initial import initial_draws, initial_moments
from .schemes.errors import MarchError
from .schemes.points import sobol_normal
from .scout import follow
from .solver import Solver
from .trajectory import Trajectory
from .validation import torch_generator

STATIONARY = "stationary"  # what t_final may be in the place of a time

_SHARE = 0.01  # of tol that may be left to go
_NOISE = 0.7  # b / a of distances that do not grow with time: at a constant speed it is 1 / 2
_POINTS = 1024
_SCOUT = 5  # a stream of the seed, beside those of the solver
_PARTICLES = 4096
_DOUBLINGS = 9  # of the time that particles are sent ahead for
_MOVED = 0.06  # of the width of a coordinate: four standard errors of their quantiles
_LEVELS = (0.1, 0.5, 0.9)
_LEFT = 1e-7  # distance, in standard deviations, that is nothing for a linear equation


class Stationary:
    """The law has come to rest: see the head of this module."""

    def first(self, solver: Solver) -> float:
        """By the eigenvalues of a linear equation, and by particles of any other.

        Raises
        ------
        ValueError
            Where a linear equation has no stationary law, or one without a density.
        MarchError
            Where particles do not come to rest.
        """
        d, device = solver.equation.d, solver.device
        if solver.structure.quadratic:
            return linear_horizon(solver.equation, *initial_moments(solver.initial, d, device))
        generator = torch_generator(solver.random_state, _SCOUT)
        x = initial_draws(solver.initial, d, _PARTICLES, generator)[0].to(device)
        return particles_at_rest(solver.equation, x, generator)

    def reached(self, fit: Fit, solver: Solver) -> bool:
        half, quarter = recent_distances(fit.trajectory)
        if quarter > _NOISE * half:
            return half**2 / 2 < solver.tol
        return min(half, left_to_go(half, quarter)) ** 2 / 2 < _SHARE * solver.tol

    def complaint(self, fit: Fit, solver: Solver) -> str:
        half, quarter = recent_distances(fit.trajectory)
        return (
            f"The law is not at rest at t = {fit.trajectory.times[-1]:g}: over the last half of "
            f"the march it moved by {half:.2g} in the Fisher norm, over the last quarter by "
            f"{quarter:.2g}: {left_to_go(half, quarter) ** 2 / 2:.2g} nats are left to go, "
            f"more than {_SHARE:g} * tol = {_SHARE * solver.tol:g}. There may be no stationary "
            "law; otherwise try a larger tol, or t_final as a number and then warm_start=True."
        )


def left_to_go(half: float, quarter: float) -> float:
    """Distance from rest, by extrapolation of those over the last half and quarter of a march."""
    if half == 0:
        return 0.0
    ratio = quarter / half
    return quarter * ratio / (1 - 2 * ratio) if ratio < 0.5 else math.inf


@torch.no_grad()
def recent_distances(trajectory: Trajectory) -> tuple[float, float]:
    """Largest distance from the end over the last half and over the last quarter of a march."""
    end = float(trajectory.times[-1])
    z = sobol_normal(_POINTS, trajectory.d, seed=6).to(trajectory.device)
    last = trajectory.sample_from(z, end)
    at_last = trajectory.log_density(last, end)
    distances = []
    for t in end * np.linspace(0.5, 1.0, 8, endpoint=False):
        y = trajectory.sample_from(z, float(t))
        # the same points of the reference: what is left of their noise is as small as the distance
        forth = at_last - trajectory.log_density(last, float(t))
        back = trajectory.log_density(y, float(t)) - trajectory.log_density(y, end)
        distances.append(math.sqrt(max(float((forth + back).mean()), 0.0)))
    return max(distances), max(distances[4:])


def linear_horizon(equation: FokkerPlanck, mean: Tensor, scale: Tensor) -> float:
    """Time after which the law of a linear equation is within rounding of its stationary law.

    Raises
    ------
    ValueError
        Where there is no stationary law, or where it has no density.
    """
    A, value, K, D = equation.linear_terms(0.0, mean, scale.square().sum(1).sqrt())
    a, b, c, diffusion = (x.cpu().numpy() for x in (A, A - K, value, D))
    size = max(np.abs(a).max(), np.abs(b).max())
    eigenvalues = np.concatenate([np.linalg.eigvals(a), np.linalg.eigvals(b)])
    worst = eigenvalues[np.argmax(eigenvalues.real)]
    if worst.real > -1e-9 * size or size == 0:
        shown = f"{worst.real:.3g}" + (f" +- {abs(worst.imag):.3g}i" if worst.imag else "")
        raise ValueError(
            "t_final='stationary' waits for the law to rest, but this linear equation has no "
            "stationary law, or none that forgets its start: its drift has the eigenvalue "
            f"{shown}, and only those with a negative real part come to rest. Give t_final as "
            "a number."
        )
    rest = solve_continuous_lyapunov(b, -2 * diffusion)
    values = np.linalg.eigvalsh((rest + rest.T) / 2)
    if values[0] < 1e-10 * values[-1] or values[-1] <= 0:
        raise ValueError(
            "t_final='stationary' waits for the law to rest, but that of this linear equation has "
            "no density: its noise does not reach all directions, and the law shrinks to nothing "
            "in the others. Give t_final as a number, or add diffusion there."
        )
    root, start = np.linalg.cholesky(rest), (scale @ scale.T).cpu().numpy()
    shift = np.linalg.solve(a, c)  # the mean at rest is at mean - shift
    t = 1 / -float(worst.real)
    while True:
        flow = expm(t * b)
        shifted = np.linalg.solve(root, expm(t * a) @ shift)
        bent = np.linalg.solve(root, flow @ (start - rest) @ flow.T)
        left = np.linalg.norm(shifted) + np.linalg.norm(np.linalg.solve(root, bent.T)) / 2
        if left < _LEFT:
            return t
        t *= 1.25


@torch.no_grad()
def settling_time(equation: FokkerPlanck, mean: Tensor, scale: Tensor) -> float:
    """Roughly the time in which a law of these moments comes to rest.

    By the slowest rate of the drift that is linear and nearest to that of the equation there.
    """
    z = sobol_normal(512, len(mean), seed=3).to(mean)
    x = mean + z @ scale.T
    equation.move_to(0.0, lambda n: x[:n])
    values = torch.nan_to_num(equation.pull(x))
    ones = torch.cat([torch.ones_like(z[:, :1]), z], 1)
    slopes = torch.linalg.lstsq(ones, values).solution[1:]
    rates = torch.linalg.eigvals(torch.linalg.solve(scale.T, slopes))
    fastest = float(rates.abs().max())
    across = float(torch.as_tensor(equation.spread_along(x)).mean() / scale.square().sum())
    if not fastest > 1e-9 * across:  # nothing but diffusion
        return 1 / across if across > 0 else 1.0
    return 1 / max(float(rates.real.abs().min()), 1e-2 * fastest)


@torch.no_grad()
def particles_at_rest(equation: FokkerPlanck, x: Tensor, generator: torch.Generator) -> float:
    """Four times the time at which particles (n, d) of the start seem to have come to rest.

    Raises
    ------
    MarchError
        Where they have not after ``_DOUBLINGS`` doublings of the first time.
    """
    gap = x - x.mean(0)
    scale = torch.linalg.cholesky(gap.T @ gap / len(x))
    t = settling_time(equation, x.mean(0), scale)
    start, now, moved = 0.0, t, math.inf
    x = _sent(equation, x, 0.0, now, generator)
    for _ in range(_DOUBLINGS):
        before = _quantiles(x)
        start, now = now, 2 * now
        x = _sent(equation, x, start, 1.5 * start, generator)
        middle = _quantiles(x)
        x = _sent(equation, x, 1.5 * start, now, generator)
        after = _quantiles(x)
        width = after[-1] - after[0]
        if not torch.isfinite(width).all() or float(width.min()) <= 0:
            break
        moved = max(float((q - after).abs().div(width).max()) for q in (before, middle))
        if moved < _MOVED:
            return 2 * now
    raise MarchError(
        "t_final='stationary' waits for the law to rest, but particles sent ahead do not: between "
        f"t = {start:g} and {now:g} their quantiles still moved by {moved:.2g} of their width. The "
        "equation may have no stationary law; give t_final as a number."
    )


def _quantiles(x: Tensor) -> Tensor:
    """Of each coordinate (levels, d)."""
    return torch.quantile(x, x.new_tensor(_LEVELS), dim=0)


def _sent(equation, x: Tensor, start: float, end: float, generator: torch.Generator) -> Tensor:
    """Particles carried on, in steps that the drift is resolved by."""
    equation.move_to(start, lambda n: x[:n])
    spread = x.std(0)
    aside = 1e-3 * spread * torch.randn(x.shape, dtype=x.dtype, generator=generator).to(x)
    change = (equation.pull(x + aside) - equation.pull(x)).norm(dim=1) / aside.norm(dim=1)
    stiffness = float(torch.quantile(torch.nan_to_num(change), 0.99))
    n = min(max(48, math.ceil(2 * (end - start) * stiffness)), 1000)
    return follow(equation, x, np.linspace(start, end, n + 1), generator)[0]
