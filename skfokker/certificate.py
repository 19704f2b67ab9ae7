r"""How wrong a fit is at most: the residual of its own equation, integrated in time.

Along the stored interpolant theta(t) the law rho_theta(t) moves with the velocity
v = (dT/dtheta) theta'(t). With the residual r = v + grad V + beta grad log rho_theta,

    d/dt KL(rho_theta | rho) = E[(v - v_rho) . grad log(rho_theta / rho)]
                             <= -beta I + |r| sqrt(I) <= |r|^2 / (4 beta),

I being the relative Fisher information, so that

    KL(rho_theta(t) | rho(t)) <= KL(rho_theta(0) | rho(0)) + 1/(4 beta) int_0^t E|r(s)|^2 ds

for any V. Where Hess V >= lambda also

    W2(t) <= exp(-lambda t) W2(0) + int_0^t exp(-lambda (t - s)) |r(s)| ds

(Theorems 20 and 26 with the paper's delta measured instead of assumed). Time discretisation and
interpolation are in v, hence in the bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats

from .equation import FokkerPlanck
from .parallel import reduction
from .schemes.normal_equations import InnerProblem
from .schemes.points import draw_seed, tail_normal
from .trajectory import Trajectory


@dataclass(frozen=True)
class Certificate:
    """Upper bounds on the distance between the fit and the exact solution.

    Attributes
    ----------
    times : ndarray (k,)
        Ends of the intervals over which the residual was averaged, from 0 to the horizon.
    residual : ndarray (k - 1,)
        E|r|^2 on each interval.
    variance : ndarray (k - 1,)
        Variance of each of these estimates.
    beta : float
        Diffusion coefficient.
    initial_error : float
        E_0, the KL divergence at t = 0.
    convexity : float or None
        lambda with Hess V >= lambda; None where none is known.
    confidence : float
        Level of the bounds, which are one-sided.
    """

    times: np.ndarray
    residual: np.ndarray
    variance: np.ndarray
    beta: float
    initial_error: float = 0.0
    convexity: float | None = None
    confidence: float = 0.95

    def kl(self, t=None, *, confidence: float | None = None):
        """Bound on KL(rho_theta(t) | rho(t)) in nats, at the given confidence.

        Parameters
        ----------
        t : float or array-like, optional
            Times in [0, horizon]; the horizon where not given.
        confidence : float, optional
            One-sided level; 0.5 gives the estimate of the bound itself.
        """
        level = self.confidence if confidence is None else confidence
        h = np.diff(self.times)
        total = self.initial_error + self._cumulative(h * self.residual) / (4 * self.beta)
        spread = np.sqrt(self._cumulative(h**2 * self.variance)) / (4 * self.beta)
        quantile = stats.t.ppf(level, df=max(len(h), 1))
        return self._at(t, total + quantile * spread)

    def total_variation(self, t=None):
        """Bound on sup_A |rho_theta(A) - rho(A)|, by Pinsker's inequality."""
        return np.minimum(1.0, np.sqrt(self.kl(t) / 2))

    def w2(self, t=None, *, initial: float = 0.0):
        """Bound on the 2-Wasserstein distance; needs a convexity constant.

        Parameters
        ----------
        t : float or array-like, optional
            As in :meth:`kl`.
        initial : float
            W2 distance at t = 0.

        Raises
        ------
        ValueError
            If no lambda with Hess V >= lambda is known.
        """
        if self.convexity is None:
            raise ValueError(
                "The W2 bound needs a constant lambda with Hess V >= lambda, and none is known "
                "for this potential: give it an attribute `convexity` and fit again."
            )
        h, rate = np.diff(self.times), self.convexity
        quantile = stats.t.ppf(self.confidence, df=max(len(h), 1))
        size = np.sqrt(self.residual + quantile * np.sqrt(self.variance))
        bound = [initial]
        for step, residual in zip(h, size, strict=True):
            # the largest value that exp(-rate (t - s)) takes on the step
            weight = max(1.0, np.exp(-rate * step))
            bound.append(np.exp(-rate * step) * bound[-1] + step * weight * residual)
        return self._at(t, np.array(bound))

    @staticmethod
    def _cumulative(increments):
        return np.concatenate([[0.0], np.cumsum(increments)])

    def _at(self, t, values):
        """Values at t; both bounds are read at the end of the interval that holds t, or above."""
        if t is None:
            return float(values[-1])
        t = np.asarray(t, dtype=float)
        if (t < self.times[0]).any() or (t > self.times[-1]).any():
            raise ValueError(
                f"t must lie in the certified span [{self.times[0]:g}, {self.times[-1]:g}], "
                f"got {t}."
            )
        k = np.searchsorted(self.times, t)
        upper = np.maximum(values[k], values[np.maximum(k - 1, 0)])
        return float(upper) if t.ndim == 0 else upper

    def __str__(self):
        return (
            f"KL(fit | exact) <= {self.kl():.2g} at t = {self.times[-1]:g} "
            f"({100 * self.confidence:g} %), total variation <= {self.total_variation():.2g}"
        )

    __repr__ = __str__


@torch.no_grad()
def certify(
    trajectory: Trajectory,
    equation: FokkerPlanck,
    generator: torch.Generator,
    *,
    initial_error: float = 0.0,
    convexity: float | None = None,
    n_samples: int | None = None,
    n_times: int = 64,
) -> Certificate:
    """Measure the residual of a stored march on points that no step was fitted on.

    Every interval between stored times is cut into strata; in each one time is drawn uniformly,
    and E|r|^2 is a weighted mean over fresh scrambled Sobol points: an unbiased estimate of the
    integral, whose variance is read off the differences between strata of the same interval
    (which overstates it where the residual drifts). Half of the points lie in the tails of the
    reference: |r|^2 of coupled maps is so heavy-tailed that plain draws mostly miss its mean.

    Parameters
    ----------
    trajectory : Trajectory
    equation : FokkerPlanck
    generator : torch.Generator
        Of the times and the points.
    initial_error : float
        KL divergence at t = 0.
    convexity : float or None
        lambda with Hess V >= lambda.
    n_samples : int or None
        Points at each time; None takes 512 for separable maps and 1024 for others.
    n_times : int
        At least so many times in all, and two an interval.
    """
    times = np.unique(trajectory.times)  # a family that grew stands twice at that time
    n_samples = n_samples or (512 if trajectory.flow.separable else 1024)
    strata = max(2, -(-n_times // max(len(times) - 1, 1)))
    means, variances = [], []
    for start, end in zip(times[:-1], times[1:], strict=True):
        u = torch.rand(strata, dtype=torch.float64, generator=generator).numpy()
        values = [
            mean_residual(trajectory, equation, start + (end - start) * s, n_samples, generator)
            for s in (np.arange(strata) + u) / strata
        ]
        means.append(np.mean(values))
        variances.append(np.var(values, ddof=1) / strata)
    return Certificate(
        times, np.array(means), np.array(variances), equation.beta, initial_error, convexity
    )


def mean_residual(
    trajectory: Trajectory,
    equation: FokkerPlanck,
    t: float,
    n_samples: int,
    generator: torch.Generator,
) -> float:
    """E|r|^2 at time t on fresh points, half of them in the tails, where |r|^2 is largest."""
    theta, dtheta = (torch.as_tensor(a, device=trajectory.device) for a in trajectory.at(t))
    x, weights = tail_normal(n_samples, trajectory.d, draw_seed(generator))
    x, weights = x.to(theta), weights.to(theta)
    equation.potential.time = t
    problem = InnerProblem(equation, trajectory.flow, theta, x, weights, reduction())
    return problem.mean_square(problem.linearization.law_velocity(dtheta) + problem.g)
