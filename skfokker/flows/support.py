"""x = f(y) for coordinates that have ends: the last layer of a flow made on the whole line."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..dynamics.support import Support
from .base import Flow, Linearization


class SupportMap(Flow):
    """y on the whole line to x between ends, coordinate by coordinate: no parameters.

    Parameters
    ----------
    low, high : array-like (d,)
        Infinite where there is no end. Points that are not inside have the log density -inf.
    """

    separable = True

    def __init__(self, low, high):
        self.low = low
        self.high = high

    @property
    def support(self) -> Support:
        """The ends, and the formulas."""
        return Support(np.asarray(self.low, dtype=float), np.asarray(self.high, dtype=float))

    def n_parameters(self, d):
        return 0

    def coordinate_index(self, d):
        return torch.zeros(d, 0, dtype=torch.long)

    def init(self, d, generator=None):
        return torch.zeros(0, dtype=torch.float64)

    def starts_at_identity(self, d):
        return False

    def forward(self, theta, x):
        support = self.support
        return support.to_x(x), support.log_slope(x).sum(1)

    def inverse(self, theta, y):
        support = self.support
        inside = support.contains(y)
        # anywhere inside: the density says that it is not
        x = support.to_y(torch.where(inside[:, None], y, support.to_x(torch.zeros_like(y))))
        outside = torch.full_like(y[:, 0], -torch.inf)
        return x, torch.where(inside, -support.log_slope(x).sum(1), outside)

    def linearize(self, theta, x):
        return _SupportLinearization(self, theta, x)


class _SupportLinearization(Linearization):
    def __init__(self, flow, theta, x):
        self.y, self.log_det = flow.forward(theta, x)
        self.slope, self.bend = flow.support.slope(x), flow.support.bend(x)

    def grad_log_det(self):
        return self.bend

    def solve(self, v):
        return v / self.slope

    def solve_transposed(self, v):
        return v / (self.slope if v.ndim == 2 else self.slope[:, None])

    def jvp(self, dtheta, dx=None):
        return torch.zeros_like(self.y) if dx is None else dx * self.slope

    def vjp(self, v):
        return v.new_zeros(0), v * self.slope

    def jacobian(self, left=None):
        if left is None:
            left = torch.eye(self.y.shape[1]).to(self.y).expand(len(self.y), -1, -1)
        return left.new_zeros(*left.shape[:2], 0), left * self.slope[:, None]

    def coordinate_jacobian(self):
        return self.y.new_zeros(*self.y.shape, 0)

    def coordinate_slope(self):
        return self.slope


def refuse_outside(flow: Flow, x: Tensor) -> None:
    """Raise a ValueError where points x (n, d) are not where the law lives."""
    support = support_of(flow)
    if support is None or support.contains(x).all():
        return
    row = int((~support.contains(x)).nonzero()[0])
    raise ValueError(
        f"X[{row}] = {x[row].tolist()} is not inside the support {support} of the equation, where "
        "the law lives: only log_density has an answer there, -inf."
    )


def support_of(flow: Flow) -> Support | None:
    """Where the law of a flow lives; None for all of R^d."""
    last = (getattr(flow, "layers", None) or [None])[-1]
    return last.support if isinstance(last, SupportMap) else None
