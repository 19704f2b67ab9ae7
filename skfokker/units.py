r"""Units that a march is made in: those of its start.

With x = origin + length u the equation is that of V / length^2 and beta / length^2, at the same
times. Every size that a scheme or a family takes for granted is then one of the start, whatever
units the user has: joule and metre as well as nats and standard deviations. What a march does in
time is relative to its horizon.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, constraints

from .certificate import Certificate
from .fit import Fit
from .flows.base import Flow
from .flows.frame import Frame, framed, split_frame
from .flows.support import SupportMap
from .initial import Gaussian, initial_moments, known_gaussian
from .potentials import Potential
from .potentials.base import as_float64

_ROUNDING = 1e-12  # relative size of what is nothing in a moment of the start

# powers of the length in the records of a step
_POWERS = {"residual": 2, "force": 2, "dissipation": 2, "decrease": 2, "distance": 1}


@dataclass(frozen=True)
class Units:
    """An origin and a unit of length.

    Attributes
    ----------
    origin : ndarray (d,)
    length : float
    beta : float
        Of the user, where there is a free energy; NaN otherwise.
    """

    origin: np.ndarray
    length: float
    beta: float = math.nan

    @classmethod
    def of(cls, initial: Any, flow: Flow | None, before: Any, d: int, beta: float) -> Units:
        """Those of a fit.

        Parameters
        ----------
        initial, flow
            Parameters of the estimator.
        before : estimator or None
            The model that is gone on from.
        d : int
        beta : float
        """
        if before is not None and getattr(before, "flow_", None) is not None:
            frame = _unit_frame(before.flow_)
            return cls.none(d) if frame is None else cls(frame.mean, frame.root, beta)
        # a start that is yet to be found, or a family of the user's with places of its own
        if isinstance(initial, str) or (flow is not None and flow.placed):
            return cls.none(d)
        return cls.of_start(initial, d, beta)

    @classmethod
    def of_start(cls, initial: Any, d: int, beta: float) -> Units:
        """The mean of a start, and the root mean square of its standard deviations."""
        mean, scale = initial_moments(initial, d, torch.device("cpu"))
        size = scale.abs().max()
        if not size > 0:  # of draws that are all the same
            return cls.none(d)
        length = float(size * ((scale / size).square().sum() / d).sqrt())
        return cls(mean.numpy(), length, beta)

    @classmethod
    def none(cls, d: int) -> Units:
        """Those of the user."""
        return cls(np.zeros(d), 1.0)

    @property
    def trivial(self) -> bool:
        """Whether they are those of the user."""
        return self.length == 1 and not self.origin.any()

    def flow(self, flow: Flow, frame: Frame | None = None, chart: SupportMap | None = None) -> Flow:
        """A family of laws in a frame of these units, as one in coordinates of the user."""
        if self.trivial:
            return framed(flow, frame, chart)
        return framed(framed(flow, frame), Frame(self.origin, self.length), chart)

    def potential(self, potential: Any) -> Any:
        """V, or an equation that is no gradient flow, in these units."""
        if self.trivial:
            return potential
        if isinstance(potential, Potential):
            return Scaled(potential, self.origin, self.length)
        return potential.in_units(torch.as_tensor(self.origin), self.length)

    def diffusion(self, beta: float) -> float:
        """The diffusion coefficient in these units."""
        return beta / self.length / self.length

    def initial(self, initial: Any, d: int) -> Any:
        """A start in these units."""
        if self.trivial:
            return initial
        gaussian = known_gaussian(initial)
        if gaussian is not None:
            mean, scale = (a.numpy() for a in gaussian.moments(d))
            mean, scale = (mean - self.origin) / self.length, scale / self.length
            covariance = scale @ scale.T
            width = np.sqrt(np.diag(covariance))
            mean[np.abs(mean) < _ROUNDING * width] = 0.0
            if not mean.any() and np.allclose(covariance, np.eye(d), rtol=0, atol=_ROUNDING):
                return None
            return Gaussian(mean, covariance)
        if isinstance(initial, Independent) and not initial.base_dist.event_shape:
            return Independent(Shifted(initial.base_dist, self.origin, self.length), 1)
        if isinstance(initial, Distribution):
            return Shifted(initial, self.origin, self.length)
        return (as_float64(initial, "initial").numpy() - self.origin) / self.length

    def leave(self, fit: Fit) -> Fit:
        """A fit in these units as one in those of the user, its flow excepted."""
        if self.trivial:
            return fit
        certificate, later = self._certificate(fit.certificate), fit.certify_later
        if later is not None:
            compute = later

            def later():
                return self._certificate(compute())

        correction = fit.correction
        if correction is not None:
            shift = len(self.origin) * math.log(self.length)
            correction = replace(
                correction,
                nll_before=correction.nll_before + shift,
                nll_after=correction.nll_after + shift,
            )
        history = [self.leave_record(record) for record in fit.history]
        return replace(
            fit,
            certificate=certificate,
            correction=correction,
            history=history,
            certify_later=later,
        )

    def _certificate(self, certificate: Certificate | None) -> Certificate | None:
        """One of these units in those of the user; without a free energy it has none."""
        if certificate is None or math.isnan(self.beta):
            return certificate
        return stretched(certificate, self.length)

    def enter(self, fit: Fit) -> Fit:
        """The inverse of :meth:`leave` for what a march is continued from."""
        if self.trivial:
            return fit
        return replace(fit, history=[self.record(record) for record in fit.history])

    def leave_record(self, record: dict) -> dict:
        """A record of a step in these units, in those of the user."""
        return record if self.trivial else self._record(record, 1)

    def record(self, record: dict) -> dict:
        """A record of a step in the user's units, in these."""
        return record if self.trivial else self._record(record, -1)

    def _record(self, record: dict, way: int) -> dict:
        out = {
            name: value * self.length ** (way * _POWERS[name]) if name in _POWERS else value
            for name, value in record.items()
        }
        if "free_energy" in out:
            shift, unit = self.beta * len(self.origin) * math.log(self.length), self.length**2
            value = out["free_energy"]
            out["free_energy"] = value * unit - shift if way > 0 else (value + shift) / unit
        return out


def _unit_frame(flow: Flow | None) -> Frame | None:
    frame = split_frame(flow)[1]
    return frame if frame is not None and np.ndim(frame.root) == 0 else None


@overload
def split_units(flow: Flow) -> tuple[Flow, Frame | None]: ...


@overload
def split_units(flow: None) -> tuple[None, None]: ...


def split_units(flow: Flow | None) -> tuple[Flow | None, Frame | None]:
    """A fitted flow without its units, in two parts: the family of the march, and its frame."""
    if _unit_frame(flow) is not None:
        flow = split_frame(flow)[0]
    return split_frame(flow)


def stretched(certificate: Certificate, length: float) -> Certificate:
    """A certificate of a march in coordinates u, for x whose distances are ``length`` times those.

    For a frame that is no multiple of an isometry ``length`` is its norm: the bounds of KL and of
    the total variation are what they were, and those of W2 hold.
    """

    def times(value, power):
        return None if value is None else value * length**power

    main = certificate.main
    return replace(
        certificate,
        residual=times(certificate.residual, 2),
        variance=times(certificate.variance, 4),
        charged=times(certificate.charged, 2),
        charged_variance=times(certificate.charged_variance, 4),
        beta=certificate.beta * length**2,
        log_sobolev=times(certificate.log_sobolev, -2),
        main=None if main is None else stretched(main, length),
    )


class Scaled(Potential):
    """V / length^2 at origin + length u.

    Parameters
    ----------
    potential : Potential
    origin : array-like (d,)
    length : float
    """

    def __init__(self, potential: Potential, origin: Any, length: float):
        self.potential = potential
        self.origin = origin
        self.length = length

    @property
    def n_features_in_(self) -> int:
        return self.potential.n_features_in_

    @property
    def has_walls(self) -> bool:  # type: ignore[override]
        return getattr(self.potential, "has_walls", False)

    @property
    def steady(self) -> bool:
        """Whether V does not depend on time."""
        return getattr(self.potential, "steady", True)

    @property
    def time(self) -> float | None:
        """That of a potential which depends on it."""
        return getattr(self.potential, "time", None)

    @time.setter
    def time(self, t: float | None) -> None:
        self.potential.time = t

    @property
    def _unit_of_energy(self) -> float:  # type: ignore[override]
        return self.length**2 * self.potential._unit_of_energy

    def __getattr__(self, name: str) -> Any:
        # a potential that knows its convexity, that of its second derivatives, keeps it
        if name == "convexity":
            return self.potential.convexity
        raise AttributeError(name)

    def _prepare(self) -> tuple[Tensor, ...]:
        return (as_float64(self.origin, "origin"),)

    def to_x(self, u: Tensor) -> Tensor:
        """Points u (n, d) in the units of the user."""
        return self._constants(u)[0] + self.length * u

    def _less(self, value: Tensor, powers: int) -> Tensor:
        for _ in range(powers):  # the square of a length may be out of range
            value = value / self.length
        return value

    def __call__(self, u):
        return self._less(self.potential(self.to_x(u)), 2)

    def value_and_grad(self, u):
        value, gradient = self.potential.value_and_grad(self.to_x(u))
        return self._less(value, 2), self._less(gradient, 1)

    def gradient(self, u):
        return self._less(self.potential.gradient(self.to_x(u)), 1)


class Shifted(Distribution):
    """The law of (X - origin) / length, for X of another law.

    Parameters
    ----------
    base : Distribution
    origin : ndarray (d,)
    length : float
    """

    arg_constraints: dict = {}
    support = constraints.real

    def __init__(self, base: Distribution, origin: np.ndarray, length: float):
        self.base, self.length = base, length
        self.origin = torch.as_tensor(origin)
        if not (base.event_shape or base.batch_shape):
            self.origin = self.origin[0]
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def sample(self, sample_shape=()):
        return (self.base.sample(sample_shape).to(self.origin) - self.origin) / self.length

    def log_prob(self, value):
        n = math.prod(self.event_shape)
        x = self.origin.to(value) + self.length * value
        return self.base.log_prob(x) + n * math.log(self.length)
