r"""The first moments of a narrow start, before it feels more of V than a quadratic.

A start that is nearly a point spreads by diffusion alone, over many powers of ten; as long as V is
linear or quadratic on its width the law stays Gaussian, and its mean and covariance solve two
ordinary equations (:class:`skfokker.schemes.moments.GaussianMoments`, about the moving mean).
That costs a few gradients a step. The march proper sets out where the law has come to a size at
which V shows itself, in the units of that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .certificate import Certificate, certify
from .equation import FokkerPlanck
from .flows.affine import AffineFlow
from .flows.base import Flow
from .flows.frame import Frame
from .initial import Gaussian, known_gaussian
from .potentials import Potential
from .schemes.base import Step
from .schemes.moments import Moments, MomentsState
from .schemes.points import sobol_normal
from .trajectory import Trajectory
from .units import Units

NARROW = 4.0  # times its width, that a law has to become for an opening to be worth it

_SHARE = 1e-3  # of the target, that the certified error of an opening may take
_TOLERANCE = 1e-6  # of a step, in standard deviations
_N_POINTS = 128
_MOST_STEPS = 1000


@dataclass(frozen=True)
class Opening:
    """Means and covariances of a start up to where V shows itself.

    Attributes
    ----------
    times : ndarray (k,)
    means, mean_rates : ndarray (k, d)
    covariances, covariance_rates : ndarray (k, d, d)
    records : list of dict
        For ``history_``.
    """

    times: np.ndarray
    means: np.ndarray
    mean_rates: np.ndarray
    covariances: np.ndarray
    covariance_rates: np.ndarray
    records: list[dict]

    @classmethod
    def of(
        cls, initial: object, potential: Potential, beta: float, horizon: float, tol: float
    ) -> Opening | None:
        """That of a problem; None where the start is not narrow.

        Parameters
        ----------
        initial
            The start, as the estimator takes it.
        potential : Potential
        beta, horizon : float
        tol : float
            Of the estimator, in nats.
        """
        gaussian = known_gaussian(initial)
        if gaussian is None or potential.has_walls or not getattr(potential, "steady", True):
            return None
        d = potential.n_features_in_
        units = Units.of_start(initial, d, beta)
        inside = units.potential(potential)
        equation = FokkerPlanck(inside, units.diffusion(beta), d)
        march = _Opening(equation, horizon, _SHARE * tol)
        mean, root = Gaussian(*_moments_in(units, gaussian, d)).moments(d)
        steps = march.steps(mean, root @ root.T)
        return None if steps is None else cls._collect(steps, units)

    @classmethod
    def _collect(cls, steps: list[tuple[float, MomentsState, dict]], units: Units) -> Opening:
        times = np.array([t for t, _, _ in steps])
        states, length = [state for _, state, _ in steps], units.length
        means, covariances = (
            torch.stack([getattr(s, name) for s in states]).numpy()
            for name in ("mean", "covariance")
        )
        rates, changes = (torch.stack([s.rates[k] for s in states]).numpy() for k in (0, 1))
        return cls(
            times,
            units.origin + length * means,
            length * rates,
            length * length * covariances,
            length * length * changes,
            [units.leave_record(record) for _, _, record in steps],
        )

    @property
    def end(self) -> Gaussian:
        """The law at its end."""
        return Gaussian(self.means[-1], self.covariances[-1])

    def behind(self, units: Units, frame: Frame | None) -> Opening:
        """The same in the coordinates of a march: units, and a frame within them."""
        root = np.eye(len(units.origin)) if frame is None else np.asarray(frame.root)
        middle = 0.0 if frame is None else np.asarray(frame.mean)
        back = np.linalg.inv(root)

        def turned(covariances):
            return back @ (covariances / units.length / units.length) @ back.T

        return replace(
            self,
            means=((self.means - units.origin) / units.length - middle) @ back.T,
            mean_rates=self.mean_rates / units.length @ back.T,
            covariances=turned(self.covariances),
            covariance_rates=turned(self.covariance_rates),
            records=[units.record(record) for record in self.records],
        )

    def steps(self, flow: Flow, base: Tensor) -> list[Step]:
        """Steps of a family that holds Gaussians, from its parameters (m,) of N(0, I)."""

        def at(mean, covariance) -> Tensor:
            root = np.linalg.cholesky((covariance + covariance.T) / 2)
            found = flow.with_affine(base, *(torch.from_numpy(a).to(base) for a in (mean, root)))
            assert found is not None  # see holds_gaussians
            return found

        out = []
        rows = zip(
            self.times, self.means, self.mean_rates, self.covariances, self.covariance_rates,
            self.records, strict=True,
        )  # fmt: skip
        for t, mean, mean_rate, covariance, covariance_rate, record in rows:
            # so little time that moments change by rounding to the power two thirds
            inverse = np.linalg.inv(covariance)
            rate = np.abs(np.linalg.eigvals(inverse @ covariance_rate)).max()
            rate = max(rate, np.sqrt(mean_rate @ inverse @ mean_rate))
            h = 1e-5 / rate if rate > 0 else 1.0
            after, now, before = (
                at(mean + s * mean_rate, covariance + s * covariance_rate) for s in (h, 0.0, -h)
            )
            out.append(Step(float(t), now, (after - before) / (2 * h), dict(record)))
        return out


def holds_gaussians(flow: Flow, d: int) -> bool:
    """Whether a family meets every Gaussian exactly."""
    if not flow.chosen:
        return True
    zero, one = torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64)
    return flow.starts_at_identity(d) and flow.with_affine(flow.init(d), zero, one) is not None


def certify_with_opening(
    trajectory: Trajectory, history: list[dict], equation, generator, **known
) -> Certificate:
    """:func:`~skfokker.certificate.certify`, its quadratures apart for a law that is far narrower.

    The opening is known by its records in ``history``.
    """
    n = sum(bool(record.get("opening")) for record in history)
    if n < 2:
        return certify(trajectory, equation, generator, **known)
    first = certify(trajectory.rows(slice(n)), equation, generator, **known)
    if n == len(trajectory.times):
        return first
    later = certify(trajectory.rows(slice(n - 1, None)), equation, generator, **known)
    return first.followed_by(later)


def _moments_in(units: Units, gaussian: Gaussian, d: int) -> tuple[np.ndarray, np.ndarray]:
    mean, scale = (a.numpy() for a in gaussian.moments(d))
    scale = scale / units.length
    return (mean - units.origin) / units.length, scale @ scale.T


class _Opening:
    """The march of the moments, and what it leaves of the equation."""

    def __init__(self, equation: FokkerPlanck, horizon: float, allowed: float):
        self.equation, self.horizon, self.allowed = equation, horizon, allowed
        d = equation.d
        flow = AffineFlow()
        like = torch.zeros(1, dtype=torch.float64)
        self.moments = Moments(equation, flow, flow.init(d).to(like))
        half = sobol_normal(_N_POINTS // 2, d, seed=0)
        self.z = torch.cat([half, -half])

    def steps(self, mean: Tensor, covariance: Tensor):
        """(t, state, record) up to where V shows itself; None where that is at once."""
        now = self._state(0.0, mean, covariance)
        if now is None:
            return None
        state, rate, record = now
        diffusion = float(covariance.diagonal().mean()) / self.equation.beta
        # the time in which diffusion alone brings the growth that is asked for
        if rate * min(0.5 * (NARROW**2 - 1) * diffusion, self.horizon) > self.allowed:
            return None
        out, t, h, spent = [(0.0, state, record)], 0.0, 1e-3 * diffusion, 0.0
        while len(out) < _MOST_STEPS and t < self.horizon:
            remaining = self.horizon - t
            h = min(h, self.moments.longest(state))
            step = remaining if h > 0.999 * remaining else min(h, (remaining + h) / 2)
            after, error = self.moments.step(t, state, step)
            error /= _TOLERANCE
            factor = 0.2 if not np.isfinite(error) else 0.9 * max(error, 1e-8) ** -0.2
            h = step * min(4.0, max(0.2, factor))
            if error > 1:
                if step < 1e-12 * max(t, 1e-3 * diffusion):
                    break
                continue
            seen = self._look(after)
            if seen is None:
                break
            spent += step * max(rate, seen[0])
            if spent > self.allowed:
                break
            rate, record = seen
            t = self.horizon if step == remaining else t + step
            state = after
            out.append((t, state, record))
        grown = state.covariance.diagonal().mean() / covariance.diagonal().mean()
        return out if grown > NARROW**2 else None

    def _state(self, t: float, mean: Tensor, covariance: Tensor):
        try:
            state = self.moments.state(t, mean, covariance)
        except torch.linalg.LinAlgError:
            return None
        seen = self._look(state)
        return None if seen is None else (state, *seen)

    def _look(self, state: MomentsState) -> tuple[float, dict] | None:
        """Nats that are certified a unit of time, and a record; None where V is not finite."""
        root = torch.linalg.cholesky(state.covariance)
        x = state.mean + self.z @ root.T
        value, pull = self.equation.at_points(x)
        if not (torch.isfinite(value).all() and torch.isfinite(pull).all()):
            return None
        beta, d = self.equation.beta, self.equation.d
        expected = -state.rates[0] + (x - state.mean) @ (-state.generator.T)
        residual = float((pull - expected).square().sum(1).mean())
        inverse = torch.cholesky_inverse(root)
        force = float((pull - beta * (x - state.mean) @ inverse).square().sum(1).mean())
        log_density = -0.5 * self.z.square().sum(1) - root.diagonal().log().sum()
        log_density = log_density - 0.5 * d * np.log(2 * np.pi)
        record = {
            "free_energy": float((value + beta * log_density).mean()),
            "dissipation": max(force - residual, 0.0),
            "residual": residual,
            "force": force,
            "rejected": 0,
            "opening": True,
        }
        return residual / (4 * beta), record
