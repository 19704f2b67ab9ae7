"""What every march through time offers: a generator of steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from ..equation import FokkerPlanck
from ..flows.base import Flow


@dataclass(frozen=True)
class Step:
    """One stored point of the march.

    Attributes
    ----------
    t : float
        Time.
    theta : Tensor (m,)
        Parameters at t.
    velocity : Tensor (m,) or None
        theta'(t); None where the scheme has none (finite differences are then stored).
    record : dict
        What the scheme has to say of the step (``h``, ``residual``, ``free_energy``,
        ``iterations``, ...): one entry of ``history_``.
    """

    t: float
    theta: Tensor
    velocity: Tensor | None
    record: dict = field(default_factory=dict)


class Scheme(BaseEstimator):
    """A march of theta through time; holds hyper-parameters only.

    Attributes
    ----------
    aims_at_tolerance : bool
        Whether its default settings are chosen so that ``tol`` of the estimator is met: a fit whose
        certified error is above that warns, and may be refined. False unless a scheme says so.
    any_equation : bool
        Whether it marches equations whose drift is no gradient, or that depend on time.
    """

    aims_at_tolerance = False
    any_equation = False

    def steps(
        self,
        equation: FokkerPlanck,
        flow: Flow,
        theta: Tensor,
        t_start: float,
        t_end: float,
        generator: torch.Generator,
    ) -> Iterator[Step]:
        """Yield the state at ``t_start``, then after every step, the last one at ``t_end``.

        All randomness comes from ``generator``. Interrupting the iteration loses nothing that
        was yielded.
        """
        raise NotImplementedError
