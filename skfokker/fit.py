"""What a fit has come to: the march, its history, its certificate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .certificate import Certificate
from .corrector import Correction
from .flows.base import Flow
from .plan import Plan
from .schemes.base import Scheme
from .trajectory import Trajectory


@dataclass
class Fit:
    """What a fit has come to.

    Attributes
    ----------
    flow, scheme
        Those in use.
    trajectory : Trajectory
    history : list of dict
        One record a stored time.
    initial_error : float
        KL divergence at t = 0.
    certificate : Certificate or None
    correction : Correction or None
        What the particle corrector did.
    plan : Plan or None
        Who chose flow and scheme, and why.
    stopped_by : exception or None
        What stopped it before its horizon.
    certify_later : callable or None
        Computes the certificate, where the keyboard has asked for the fit at once.
    """

    flow: Flow
    scheme: Scheme
    trajectory: Trajectory
    history: list[dict]
    initial_error: float
    certificate: Certificate | None = None
    correction: Correction | None = None
    plan: Plan | None = None
    stopped_by: BaseException | None = field(default=None, repr=False)
    certify_later: Callable[[], Certificate | None] | None = field(default=None, repr=False)
