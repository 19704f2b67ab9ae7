"""Where a certified error comes from, and which knob would lower it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from .certificate import Certificate
from .equation import FokkerPlanck
from .point_look import mean_residual
from .trajectory import Trajectory


@dataclass(frozen=True)
class Effort:
    """How hard a fit tries.

    Attributes
    ----------
    capacity : int
        Multiplies the size of the default family.
    tolerance : float or None
        Of the time steps of the default scheme; None leaves it to the scheme.
    n_samples : int or None
        Sample points of the default scheme; None leaves it to the scheme.
    level : int
        How often something has been refined.
    """

    capacity: int = 1
    tolerance: float | None = None
    n_samples: int | None = None
    level: int = 0

    def larger_family(self) -> Effort:
        """Twice the capacity."""
        return replace(self, capacity=2 * self.capacity, level=self.level + 1)

    def shorter_steps(self, tolerance: float) -> Effort:
        """A tenth of the tolerance that was used."""
        return replace(self, tolerance=tolerance / 10, level=self.level + 1)

    def more_samples(self, n_samples: int) -> Effort:
        """Twice the sample points that were used."""
        return replace(self, n_samples=2 * n_samples, level=self.level + 1)


@dataclass(frozen=True)
class Diagnosis:
    """The parts of a certified KL bound, in nats.

    Attributes
    ----------
    family : float
        Of the family of maps: the residual that remained on the points of the steps themselves.
    sampling : float
        Of the finite number of those points: what fresh points show beyond that.
    time : float
        Of the time steps and the interpolation between them: what remains.
    """

    family: float
    sampling: float
    time: float

    @property
    def largest(self) -> str:
        """Name of the largest part."""
        return max(("family", "sampling", "time"), key=lambda part: getattr(self, part))

    def advice(self) -> str:
        """A sentence that names the largest part and what to try."""
        knob = {
            "family": "the family of maps: try a `flow` with more n_hidden, n_intervals or "
            "n_components, or more layers",
            "sampling": "the number of sample points: try a `scheme` with a larger n_samples",
            "time": "the time steps: try a `scheme` with a smaller tolerance or max_step",
        }[self.largest]
        total = self.family + self.sampling + self.time
        share = 100 * getattr(self, self.largest) / total if total > 0 else 0.0
        return f"{share:.0f} % of it comes from {knob}."


@torch.no_grad()
def diagnose(
    certificate: Certificate,
    trajectory: Trajectory,
    history: list[dict],
    equation: FokkerPlanck,
    generator: torch.Generator,
    n_samples: int = 512,
    n_times: int = 16,
) -> Diagnosis:
    """Split the bound by looking at the residual at stored times, on fitted and on fresh points."""
    times = trajectory.times
    fitted = np.array([record["residual"] for record in history])
    nodes = np.unique(np.linspace(0, len(times) - 1, min(n_times, len(times))).astype(int))
    fresh = [mean_residual(trajectory, equation, times[k], n_samples, generator) for k in nodes]
    total = max(0.0, certificate.kl(confidence=0.5) - certificate.initial_error)
    family = _integral(fitted, times) / (4 * equation.charge)
    at_nodes = _integral(fresh, times[nodes]) / (4 * equation.charge)
    family = min(family, total)
    sampling = min(max(at_nodes - family, 0.0), total - family)
    return Diagnosis(float(family), float(sampling), float(total - family - sampling))


def _integral(values, times) -> float:
    """Trapezoidal rule on uneven times."""
    values = np.asarray(values)
    return float(np.sum(np.diff(times) * (values[1:] + values[:-1]) / 2))
