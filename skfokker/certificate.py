r"""How wrong a fit is at most: what its law misses the equation by, integrated in time.

Along the stored interpolant theta(t) the law rho_theta(t) moves with a velocity v that is known
(:meth:`skfokker.flows.Flow.law_velocity`). With the residual r = v + grad V + beta grad log
rho_theta, and any field w of the same divergence against rho_theta,

    d/dt KL(rho_theta | rho) <= -beta I + |w| sqrt(I) <= |w|^2 / (4 beta),

I being the relative Fisher information, so that

    KL(rho_theta(t) | rho(t)) <= KL(rho_theta(0) | rho(0)) + 1/(4 beta) int_0^t E|w(s)|^2 ds

for any V. Where Hess V >= lambda and rho(0) satisfies a logarithmic Sobolev inequality, so does
rho(t), 2 alpha(t) KL <= I with

    1 / alpha(t) = exp(-2 lambda t) / alpha(0) + beta (1 - exp(-2 lambda t)) / lambda

(Bakry, Gentil and Ledoux, Analysis and Geometry of Markov Diffusion Operators, chapter 5), and
errors are forgotten. There, also

    W2(t) <= exp(-lambda t) W2(0) + int_0^t exp(-lambda (t - s)) |r(s)| ds

(Theorems 20 and 26 with the paper's delta measured instead of assumed).

The equation contracts L1, whatever V. With eps = d/dt log rho_theta - rho_theta^{-1} L* rho_theta

    TV(rho_theta(t), rho(t)) <= TV(rho_theta(0), rho(0)) + 1/2 int_0^t E|eps(s)| ds ,

and both bounds go together by Pinsker's inequality, at any time on the way. Time discretisation and
interpolation are in v and eps, hence in the bounds. Where the drift depends on the law all this is
said of the equation in the field of the fit; :mod:`skfokker.mean_field` adds what that leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import stats

from .equation import FokkerPlanck
from .mean_field import MeanFieldGrowth
from .planar_look import PlanarLook, planar_look
from .point_look import PointLook, mean_residual
from .trajectory import Trajectory

_EXACT = 1e-9  # nats whose root is total variation enough
_LARGE = 1e-2  # nats from which on it is looked whether little mass certifies most of them
_FITS = 8  # such fields are fitted along a march, at most
_MANY = 24  # steps from which on each is looked at once
_SPLITS = np.linspace(0.0, 0.95, 20)  # shares of the dissipation that forget, to choose from


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
        Diffusion coefficient; 1 for a general equation, whose residual is E[r . D^-1 r] (NaN where
        D has no inverse: there is no bound of KL then).
    initial_error : float
        E_0, the KL divergence at t = 0.
    convexity : float or None
        lambda with Hess V >= lambda; None where none is known.
    confidence : float
        Level of the bounds, which are one-sided.
    charged, charged_variance : ndarray (k - 1,) or None
        E|w|^2, of the residual less a field that leaves the law alone, and variances; None stands
        for the whole residual.
    imbalance, imbalance_variance : ndarray (k - 1,) or None
        E|eps| and variances; None where it is not known.
    log_sobolev : float or None
        alpha(0), the constant of the exact initial law: 1 / its largest variance for a Gaussian.
    main : Certificate or None
        Of the law without little mass that certifies most of the error: rho_theta = (1 - p)
        rho_main + p (the rest). The rest is the far tail of the reference, or what a family leaves
        out of its :meth:`~skfokker.flows.Flow.main_part`. None where that would not help.
    left_out : ndarray (k - 1,) or None
        p, at most, on each interval.
    is_bound : bool
        False where the drift depends on the law and nothing says how much: what is computed is
        then the residual against the mean field of the fit, and no bound.
    growth : MeanFieldGrowth or None
        How errors grow through the field that they move, where a Lipschitz constant says so.
    """

    times: np.ndarray
    residual: np.ndarray
    variance: np.ndarray
    beta: float
    initial_error: float = 0.0
    convexity: float | None = None
    confidence: float = 0.95
    charged: np.ndarray | None = None
    charged_variance: np.ndarray | None = None
    imbalance: np.ndarray | None = None
    imbalance_variance: np.ndarray | None = None
    log_sobolev: float | None = None
    main: Certificate | None = None
    left_out: np.ndarray | None = None
    is_bound: bool = True
    growth: MeanFieldGrowth | None = None

    def kl(self, t=None, *, confidence: float | None = None):
        """Bound on KL(rho_theta(t) | rho(t)) in nats, at the given confidence.

        Parameters
        ----------
        t : float or array-like, optional
            Times in [0, horizon]; the horizon where not given.
        confidence : float, optional
            One-sided level; 0.5 gives the estimate of the bound itself.
        """
        return self._at(t, *self._kl(self.confidence if confidence is None else confidence))

    def _kl(self, level: float) -> tuple[np.ndarray, np.ndarray]:
        """Bounds at ``times``, and on every interval: between its ends."""
        if self.growth is None:
            return self._kl_in_own_field(level)
        level = (1 + level) / 2 if level > 0.5 else level
        pairs = zip(self._kl_in_own_field(level), self.growth.exchanged(level), strict=True)
        ends, inside = ((np.sqrt(kl) + np.sqrt(moved)) ** 2 for kl, moved in pairs)
        return ends, inside

    def _kl_in_own_field(self, level: float) -> tuple[np.ndarray, np.ndarray]:
        if self.charged is None or self.charged_variance is None:
            return self._integrated(self.residual, self.variance, level)
        level = (1 + level) / 2 if level > 0.5 else level  # each of two at half of the error
        whole = self._integrated(self.residual, self.variance, level)
        charged = self._integrated(self.charged, self.charged_variance, level)
        return np.minimum(whole[0], charged[0]), np.minimum(whole[1], charged[1])

    def total_variation(self, t=None, *, confidence: float | None = None):
        """Bound on sup_A |rho_theta(A) - rho(A)|: L1 contraction and Pinsker's inequality.

        Each of the two holds at half of the error probability. Arguments as for :meth:`kl`.
        """
        level = self.confidence if confidence is None else confidence
        return self._at(t, *self._total_variation(level))

    def _quantile(self, level: float) -> float:
        return float(stats.t.ppf(level, df=max(len(self.times) - 1, 1)))

    def _forgetting(self) -> np.ndarray:
        """The least log-Sobolev constant of rho on every interval; 0 where none is known."""
        if self.convexity is None or self.log_sobolev is None:
            return np.zeros(len(self.times) - 1)
        rate, t = self.convexity, self.times
        if abs(rate) < 1e-12:
            inverse = 1 / self.log_sobolev + 2 * self.beta * t
        else:
            fade = np.exp(np.minimum(-2 * rate * t, 700.0))
            inverse = fade / self.log_sobolev - self.beta * np.expm1(np.log(fade)) / rate
        constants = 1 / inverse  # monotone in time
        return np.minimum(constants[1:], constants[:-1])

    def _integrated(
        self, means: np.ndarray, variances: np.ndarray, level: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of KL from mean squares on the intervals, as those of :meth:`_kl`."""
        quantile = self._quantile(level)
        total, variance = self.initial_error, 0.0
        ends, inside = [total], []
        pieces = zip(np.diff(self.times), means, variances, self._forgetting(), strict=True)
        for h, mean, var, constant in pieces:
            weight = h / (4 * self.beta)
            inside.append(total + weight * mean + quantile * np.sqrt(variance + weight**2 * var))
            # of the dissipation beta I a share forgets, by I >= 2 alpha KL, and the rest resists r
            splits = _SPLITS if constant > 0 else _SPLITS[:1]
            fades = np.exp(-2 * constant * self.beta * h * splits)
            best = np.argmin(fades * total + weight / (1 - splits) * mean)
            fade, weight = fades[best], weight / (1 - splits[best])
            total = fade * total + weight * mean
            variance = fade**2 * variance + weight**2 * var
            ends.append(total + quantile * np.sqrt(variance))
        # no residual in the norm of D^-1 where that has no inverse
        at, between = np.array(ends), np.array(inside)
        return np.where(np.isnan(at), np.inf, at), np.where(np.isnan(between), np.inf, between)

    def _total_variation(self, level: float) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`_kl`."""
        if self.growth is not None:
            level = (1 + level) / 2 if level > 0.5 else level
            pairs = zip(self._contracted(level), self.growth.exchanged(level), strict=True)
            ends, inside = (np.minimum(1.0, tv + np.sqrt(moved / 2)) for tv, moved in pairs)
            return ends, inside
        if self.main is None or self.left_out is None:
            return self._contracted(level)
        level = (1 + level) / 2 if level > 0.5 else level
        ends, inside = self._contracted(level)
        of_main, between = self.main._total_variation(level)
        p = np.concatenate([self.left_out, self.left_out[-1:]])
        before = np.concatenate([self.left_out[:1], self.left_out])
        ends = np.minimum(ends, of_main + np.maximum(p, before))
        return ends, np.minimum(inside, between + self.left_out)

    def _contracted(self, level: float) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of the total variation by L1 contraction and Pinsker, as those of :meth:`_kl`."""
        if self.imbalance is None or self.imbalance_variance is None:
            kl, kl_between = self._kl_in_own_field(level)
            return np.minimum(1.0, np.sqrt(kl / 2)), np.minimum(1.0, np.sqrt(kl_between / 2))
        level = (1 + level) / 2 if level > 0.5 else level
        quantile = self._quantile(level)
        pinsker, between = (np.sqrt(a / 2) for a in self._kl_in_own_field(level))
        start, grown, variance = pinsker[0], 0.0, 0.0
        ends, inside = [min(1.0, start)], []
        for k, h in enumerate(np.diff(self.times)):
            grown += h * self.imbalance[k] / 2
            variance += (h / 2) ** 2 * self.imbalance_variance[k]
            bound = start + grown + quantile * np.sqrt(variance)
            inside.append(min(1.0, bound, between[k]))
            if pinsker[k + 1] < bound:  # go on from there
                bound = start = pinsker[k + 1]
                grown = variance = 0.0
            ends.append(min(1.0, bound))
        return np.array(ends), np.array(inside)

    def w2(self, t=None, *, initial: float = 0.0):
        """Bound on the 2-Wasserstein distance; needs a constant of convexity, or of Lipschitz.

        Parameters
        ----------
        t : float or array-like, optional
            As in :meth:`kl`.
        initial : float
            W2 distance at t = 0.

        Raises
        ------
        ValueError
            If no lambda with Hess V >= lambda is known, nor, of an equation with an interaction,
            a Lipschitz constant.
        """
        if self.growth is not None:
            start = max(initial, self.growth.start)
            return self._at(t, *replace(self.growth, start=start).w2(self.confidence))
        if self.convexity is None:
            raise ValueError(
                "The W2 bound needs a constant lambda with Hess V >= lambda, and none is known "
                "for this potential: give it an attribute `convexity` and fit again."
            )
        h, rate = np.diff(self.times), self.convexity
        size = np.sqrt(self.residual + self._quantile(self.confidence) * np.sqrt(self.variance))
        bound, inside = [initial], []
        for step, residual in zip(h, size, strict=True):
            # the largest value that exp(-rate (t - s)) takes on the step
            weight = max(1.0, np.exp(-rate * step))
            bound.append(np.exp(-rate * step) * bound[-1] + step * weight * residual)
            inside.append(weight * bound[-2] + step * weight * residual)
        return self._at(t, np.array(bound), np.array(inside))

    def _at(self, t, ends, inside):
        """Bounds at t, from those at ``times`` and those that hold on the intervals between."""
        if t is None:
            return float(ends[-1])
        t = np.asarray(t, dtype=float)
        if (t < self.times[0]).any() or (t > self.times[-1]).any():
            raise ValueError(
                f"t must lie in the certified span [{self.times[0]:g}, {self.times[-1]:g}], "
                f"got {t}."
            )
        k = np.searchsorted(self.times, t)
        within = inside[np.clip(k - 1, 0, len(inside) - 1)]
        bound = np.where(self.times[k] == t, ends[k], within)
        return float(bound) if t.ndim == 0 else bound

    def __str__(self):
        most = ""
        if self.main is not None and self.main.kl() < self.kl() / 2:
            most = f"; all but {self.left_out.max():.1g} of its mass: KL <= {self.main.kl():.2g}"
        if not self.is_bound:
            most += "; the drift depends on the law: residuals, no bounds"
        return (
            f"KL(fit | exact) <= {self.kl():.2g} at t = {self.times[-1]:g} "
            f"({100 * self.confidence:g} %), total variation <= {self.total_variation():.2g}{most}"
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
    log_sobolev: float | None = None,
    interacts: np.ndarray | None = None,
    n_samples: int | None = None,
    n_times: int = 64,
) -> Certificate:
    """Measure what a stored march misses the equation by, on points that no step was fitted on.

    Every interval between stored times is cut into strata; in each one time is drawn uniformly,
    and all expectations are weighted means over fresh scrambled Sobol points: unbiased estimates of
    the integrals, whose variance is read off the differences between strata of the same interval,
    or between neighbouring intervals (which overstates it where things drift). Half of the points
    lie in the tails of the reference: |r|^2 of coupled maps is so heavy-tailed that plain draws
    mostly miss its mean.

    Where the residual would certify more than ``_NEGLIGIBLE`` nats, a field that leaves the law
    alone is fitted to it on points of its own, a few times along the march, and taken off.

    Independent planes of conditional densities are not sampled but integrated, at the same random
    times (see :mod:`skfokker.planar_look`).

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
    log_sobolev : float or None
        Constant of the exact initial law.
    interacts : ndarray (d, d) of bool, optional
        Which coordinates V lets interact, as far as is known.
    n_samples : int or None
        Points at each time; None takes 512 for separable maps and conditional densities, and 1024
        for others.
    n_times : int
        At least so many times in all, and two an interval; one with twice the points where
        conditional densities took more than 24 steps.
    """
    times = np.unique(trajectory.times)  # a family that grew stands twice at that time
    if n_samples is None:
        cheap = trajectory.flow.separable or trajectory.flow.marched_by_scores
        n_samples = 512 if cheap else 1024
    strata = max(2, -(-n_times // max(len(times) - 1, 1)))
    look: PlanarLook | PointLook | None = planar_look(trajectory, equation)
    if look is None:
        if trajectory.flow.marched_by_scores and len(times) > _MANY:
            # most of a look is its overhead: one of twice the points is cheaper than two
            strata, n_samples = 1, 2 * n_samples
        look = PointLook(trajectory, equation, generator, interacts, n_samples)
        pilots = np.quantile(times, [0.05, 0.3, 0.8])
        largest = max(mean_residual(trajectory, equation, t, 128, generator) for t in pilots)
        if largest * (times[-1] - times[0]) / (4 * equation.charge) < _EXACT:
            look.imbalance = None
        look.n_pointwise = look.n_pointwise * n_times // (strata * (len(times) - 1))
    rows = []
    for part in np.array_split(np.arange(len(times) - 1), min(len(times) - 1, _FITS)):
        turning = look.turning(times[part[0]], times[part[-1] + 1], times[-1] - times[0])
        for start, end in zip(times[part], times[part + 1], strict=True):
            u = torch.rand(strata, dtype=torch.float64, generator=generator).numpy()
            at = start + (end - start) * (np.arange(strata) + u) / strata
            rows.append([look.at(t, turning) for t in at])
    values = np.array(rows)  # (intervals, strata, 6)
    means, variances = values.mean(1).T, _variances(values).T
    charged = charged_variance = imbalance = imbalance_variance = None
    h = np.diff(times)
    if h @ means[1] < 0.9 * (h @ means[0]):
        charged, charged_variance = means[1], variances[1]
    if np.isfinite(means[2:4]).all():
        # E eps = 0 unless V has kinks, whose part of E|eps| sits in points that no difference sees;
        # where they all bend the same way it is |E eps|
        imbalance, imbalance_variance = means[2] + np.abs(means[3]), variances[2]
    certificate = Certificate(
        times,
        means[0],
        variances[0],
        equation.charge,
        initial_error,
        convexity,
        charged=charged,
        charged_variance=charged_variance,
        imbalance=imbalance,
        imbalance_variance=imbalance_variance,
        log_sobolev=log_sobolev,
        is_bound=not equation.mean_field,
    )
    if equation.mean_field:
        growth = _growth(equation, times, means[5], variances[5], initial_error, log_sobolev)
        return replace(certificate, is_bound=growth is not None, growth=growth)
    if look.tail is not None:
        error = _initial_error_of_most(initial_error, look.tail.mass)
        most = replace(
            certificate,
            residual=means[4],
            variance=variances[4],
            initial_error=error,
            charged=None,
            charged_variance=None,
            imbalance=None,
            imbalance_variance=None,
        )
        if most.kl(confidence=0.5) < certificate.kl(confidence=0.5) / 2:
            left_out = np.full(len(h), look.tail.mass)
            return replace(certificate, main=most, left_out=left_out)
    apart = None
    if certificate.kl(confidence=0.5) > _LARGE:
        apart = _main_part(trajectory, initial_error)
    if apart is None:
        return certificate
    march, error, left_out = apart
    main = certify(
        march,
        equation,
        generator,
        initial_error=error,
        convexity=convexity,
        log_sobolev=log_sobolev,
        interacts=interacts,
        n_samples=n_samples,
        n_times=n_times,
    )
    return replace(certificate, main=main, left_out=left_out)


def _variances(values: np.ndarray) -> np.ndarray:
    """Of the means over strata, (intervals, strata, k) -> (intervals, k).

    Of a single stratum by second differences, which a drift does not enter.
    """
    n, strata, _ = values.shape
    if strata > 1:
        return values.var(1, ddof=1) / strata
    middle = np.arange(n).clip(1, n - 2)
    before, here, after = (values[middle + k, 0] for k in (-1, 0, 1))
    return (before - 2 * here + after) ** 2 / 6


def _growth(equation, times, residual, variance, initial_error, log_sobolev):
    """How errors grow through the mean field; None where no constants say so."""
    fine = np.linspace(times[:-1], times[1:], 5, axis=1)
    rates = [[equation.growth_rate(t) for t in row] for row in fine]
    if rates[0][0] is None:
        return None
    noise = [[equation.least_noise(t) for t in row] for row in fine]
    start = 0.0
    if initial_error > 0:  # by Talagrand's inequality
        start = np.inf if log_sobolev is None else np.sqrt(2 * initial_error / log_sobolev)
    return MeanFieldGrowth(
        times,
        residual,
        variance,
        np.max(rates, axis=1),
        equation.lipschitz.of_interaction,
        np.min(noise, axis=1),
        float(start),
    )


def _main_part(trajectory: Trajectory, initial_error: float):
    """The march of most of the mass, its initial error and what it leaves out (k - 1,), or None."""
    part = trajectory.flow.main_part(torch.as_tensor(trajectory.thetas), trajectory.d)
    if part is None:
        return None
    times, columns = np.unique(trajectory.times), part.columns.numpy()
    fine = np.linspace(times[:-1], times[1:], 9, axis=1).ravel()
    thetas = torch.as_tensor(np.stack([trajectory.at(t)[0] for t in fine]))
    left_out = part.left_out(thetas).view(len(times) - 1, -1).amax(1).numpy()
    error = _initial_error_of_most(initial_error, float(left_out[0]))
    march = replace(
        trajectory,
        flow=part.flow,
        thetas=trajectory.thetas[:, columns],
        velocities=trajectory.velocities[:, columns],
    )
    return march, error, left_out


def _initial_error_of_most(error: float, p: float) -> float:
    """Bound on KL(rho_main | rho_0), rho_theta = (1 - p) rho_main + p (the rest).

    With b the share of the rest, E[b log(rho_0 / rho_theta)] <= p log(1 / p) by Jensen, and 0 where
    the start is exact.
    """
    if error > 0:
        error += p * np.log(1 / max(p, 1e-300))
    return error / (1 - p) - np.log1p(-p)
