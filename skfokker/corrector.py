"""Stored times polished by maximum likelihood on particles of the exact equation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from scipy.interpolate import CubicHermiteSpline, PchipInterpolator
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval
from torch import Tensor

from .distribution import TransportedNormal
from .equation import FokkerPlanck
from .flows.base import Flow
from .initial import climb_likelihood, initial_draws
from .parallel import reduction
from .reference import langevin
from .trajectory import Trajectory
from .validation import as_tensor

_PILOTS = 256  # points of the march at which the stiffness of V is measured
_MAX_STEPS = 20_000


@dataclass(frozen=True)
class Correction:
    """What the corrector did, time by time.

    Attributes
    ----------
    times : ndarray (k,)
        Stored times that were polished.
    nll_before, nll_after : ndarray (k,)
        Negative log-likelihood of the held-out particles, in nats, under the law of the march and
        under the polished one, accepted or not.
    nll_error : ndarray (k,)
        Standard error of ``nll_before``.
    gain, gain_error : ndarray (k,)
        Mean of log(polished / march) over held-out particles, and its standard error. Both laws
        see the same particles, so that it is much smaller than ``nll_error``.
    accepted : ndarray (k,) of bool
        Whether the gain exceeds its standard error. Where it does not the march was kept.
    n_steps : int
        Steps of the simulation.
    """

    times: np.ndarray
    nll_before: np.ndarray
    nll_after: np.ndarray
    nll_error: np.ndarray
    gain: np.ndarray
    gain_error: np.ndarray
    accepted: np.ndarray
    n_steps: int

    def __str__(self) -> str:
        lines = [f"Particle corrector: {int(self.accepted.sum())} of {len(self.times)} accepted"]
        for k, t in enumerate(self.times):
            verdict = "accepted" if self.accepted[k] else "march kept"
            lines.append(
                f"t = {t:.4g}: NLL {self.nll_before[k]:.4f} -> {self.nll_after[k]:.4f}, "
                f"gain {self.gain[k]:.1e} +- {self.gain_error[k]:.0e}: {verdict}"
            )
        return "\n".join(lines)


class ParticleCorrector(BaseEstimator):
    r"""Moves a finished march towards the exact law, which can be simulated at any time.

    Errors add up along a march. Particles of :math:`dX = -\nabla V dt + \sqrt{2 \beta} dB`
    have no such memory: the parameters of greatest likelihood under them are, but for the number
    of particles, the projection of the exact law on the family in
    :math:`KL(\rho_t \| \rho_\theta)`. At a few stored times L-BFGS looks for them, starting
    from the march. What it finds is kept where particles that were not fitted to say that it is
    better, by more than one standard error; the difference is interpolated monotonically in time
    (0 at the start) and added to the march. The certificate is that of the sum.

    Parameters
    ----------
    n_particles : int, default=20000
        Particles simulated.
    held_out : float, default=0.25
        Share of them that decides, and is not fitted to.
    n_times : int, default=3
        Stored times that are polished, evenly spaced as far as possible; the horizon is one.
    n_steps : int, optional
        Euler-Maruyama steps to the horizon. None takes steps of 0.02 over the largest curvature
        of V met by 99 % of the points of the march, 100 to 20,000 of them.
    max_iter : int, default=50
        L-BFGS iterations at each time.
    ridge : float, default=1.0
        Weight, in particles, of a unit normal prior about the march's parameters.

    Notes
    -----
    The fit of m parameters to n particles is off by about m / (2 n) nats, and an explicit
    simulation with step h by O(h): a march that is closer to the exact law than that cannot be
    improved, and is kept. Where V is a user's function it is called on the CPU.

    Examples
    --------
    >>> from skfokker import ParametricFokkerPlanck
    >>> from skfokker.corrector import ParticleCorrector
    >>> from skfokker.potentials import Quadratic
    >>> corrector = ParticleCorrector(n_particles=1000, n_times=1, n_steps=100)
    >>> model = ParametricFokkerPlanck(corrector=corrector, random_state=0)
    >>> model = model.fit(Quadratic([3.0, 0.0]), t_final=0.5)
    >>> model.correction_.times
    array([0.5])
    """

    _parameter_constraints: dict = {
        "n_particles": [Interval(Integral, 100, None, closed="left")],
        "held_out": [Interval(Real, 0, 1, closed="neither")],
        "n_times": [Interval(Integral, 1, None, closed="left")],
        "n_steps": [Interval(Integral, 1, None, closed="left"), None],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "ridge": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(
        self,
        n_particles: int = 20_000,
        held_out: float = 0.25,
        n_times: int = 3,
        n_steps: int | None = None,
        max_iter: int = 50,
        ridge: float = 1.0,
    ):
        self.n_particles = n_particles
        self.held_out = held_out
        self.n_times = n_times
        self.n_steps = n_steps
        self.max_iter = max_iter
        self.ridge = ridge

    def correct(
        self,
        march: Trajectory,
        equation: FokkerPlanck,
        initial: Any,
        generator: torch.Generator,
        t_start: float = 0.0,
    ) -> tuple[Trajectory, Correction]:
        """The march with polished times, and what was done.

        Parameters
        ----------
        march : Trajectory
        equation : FokkerPlanck
        initial : None, (mean, covariance), Gaussian, Distribution or array-like (n, d)
            The start rho_0.
        generator : torch.Generator
        t_start : float
            Up to here the march stays as it is.

        Raises
        ------
        ValueError
            Where a parameter is not what is said above, or particles run off to infinity.
        """
        self._validate_params()
        times = self._times(march.times, t_start)
        n_test = max(2, round(self.held_out * self.n_particles))
        split = self.n_particles - n_test
        draws = initial_draws(initial, equation.d, self.n_particles, generator)
        starts = [_repeat(x, n) for x, n in zip(draws, (split, n_test), strict=True)]
        n_steps = self.n_steps or self._enough_steps(march, equation, generator)
        particles = langevin(
            equation.potential,
            times,
            beta=equation.beta,
            x0=torch.cat(starts).cpu().numpy(),
            n_steps=n_steps,
            seed=int(torch.randint(2**62, (), generator=generator)),
        )
        rows, moves, accepted_at = [], [], []
        for t, x in zip(times, particles, strict=True):
            x = as_tensor(x, march.device)
            before = as_tensor(march.at(t)[0], march.device)
            after = reduction().same(
                climb_likelihood(march.flow, before, x[:split], self.max_iter, self.ridge)
            )
            row, accepted = _judge(march.flow, before, after, x[split:])
            rows.append(row)
            accepted_at.append(accepted)
            moves.append((after - before).cpu().numpy() * accepted)
        nll, polished, error, gain, gain_error = np.array(rows).T
        accepted = np.array(accepted_at)
        correction = Correction(times, nll, polished, error, gain, gain_error, accepted, n_steps)
        return _shifted(march, t_start, times, moves), correction

    def _times(self, stored: np.ndarray, t_start: float) -> np.ndarray:
        """Stored times after t_start, near to evenly spaced ones; the last is the horizon."""
        later = np.unique(stored[stored > t_start])
        wanted = np.linspace(t_start, stored[-1], self.n_times + 1)[1:]
        nearest = np.abs(later[None] - wanted[:, None]).argmin(1) if len(later) else []
        return later[np.unique(np.asarray(nearest, dtype=int))]

    def _enough_steps(
        self, march: Trajectory, equation: FokkerPlanck, generator: torch.Generator
    ) -> int:
        """Steps of 0.02 over the curvature of V; the stiffest variance is then 1 % off."""
        (first, last), d = march.times[[0, -1]], equation.d
        z = torch.randn(_PILOTS, d, dtype=torch.float64, generator=generator)
        z = z.to(march.device)
        x = torch.cat([march.law(t).push(z).detach() for t in np.linspace(first, last, 5)]).cpu()
        slope = equation.potential.value_and_grad
        base, scale = slope(x)[1], float(x.std())
        step = 1e-5 * max(scale, 1e-12)
        direction = torch.randn(x.shape, dtype=torch.float64, generator=generator)
        for _ in range(6):  # power iteration on the Hessian, by differences
            direction = direction / direction.norm(dim=1, keepdim=True).clamp_min(1e-300)
            direction = (slope(x + step * direction)[1] - base) / step
        curvature = float(direction.norm(dim=1).quantile(0.99))
        return int(np.clip(math.ceil(last * curvature / 0.02), 100, _MAX_STEPS))


def _repeat(draws: Tensor, n: int) -> Tensor:
    """n rows of draws; where there are fewer, some particles share their start."""
    return draws.repeat(-(-n // len(draws)), 1)[:n]


@torch.no_grad()
def _judge(flow: Flow, before: Tensor, after: Tensor, x: Tensor):
    """The figures of one time, and whether the polished parameters are better."""
    n, d = x.shape
    old = TransportedNormal(flow, before, d).log_prob(x)
    new = TransportedNormal(flow, after, d).log_prob(x) if after.isfinite().all() else old - 1
    if not new.isfinite().all():
        new = old - 1
    gain, error = float((new - old).mean()), float((new - old).std()) / math.sqrt(n)
    figures = -float(old.mean()), -float(new.mean()), float(old.std()) / math.sqrt(n)
    return (*figures, gain, error), bool(gain > error and gain > 0)


def _shifted(march: Trajectory, t_start: float, times: np.ndarray, moves: list) -> Trajectory:
    """The march plus a monotone cubic through the moves, 0 at t_start.

    A cubic between stored times is what a trajectory holds, so the sum is exact and as smooth in
    time as the march.
    """
    if not len(times) or not np.any(moves):
        return march
    knots = np.concatenate([[t_start], times])
    values = np.stack([np.zeros_like(moves[0]), *moves])
    slopes = PchipInterpolator(knots, values).derivative()(knots)
    if t_start > 0:
        slopes[0] = 0  # what lies before stays as it is
    shift = CubicHermiteSpline(knots, values, slopes)
    later = march.times >= t_start
    thetas, velocities = march.thetas.copy(), march.velocities.copy()
    thetas[later] += shift(march.times[later])
    velocities[later] += shift.derivative()(march.times[later])
    return replace(march, thetas=thetas, velocities=velocities)
