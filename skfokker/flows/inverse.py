"""The inverse of a flow, as a flow: parametrised on the data side."""

from __future__ import annotations

import torch

from .base import Flow, Linearization
from .elementwise import ElementwiseFlow


class Inverse(Flow):
    r"""T = S^{-1} for a flow S from data to latent points.

    The parameters of S live in the space of the data, where log rho is as smooth as the
    potential; a map parametrised on the latent side has to resolve the same features through
    its own, possibly steep, slope.

    Parameters
    ----------
    flow : Flow, optional
        The map S; None is :class:`~skfokker.flows.ElementwiseFlow`.
    """

    def __init__(self, flow: Flow | None = None):
        self.flow = flow

    @property
    def back(self) -> Flow:
        """The map S."""
        return ElementwiseFlow() if self.flow is None else self.flow

    @property
    def separable(self):
        return self.back.separable

    @property
    def reserve(self):
        return self.back.reserve

    @property
    def placed(self):
        return self.back.placed

    def starts_at_identity(self, d):
        return self.back.starts_at_identity(d)

    def n_parameters(self, d):
        return self.back.n_parameters(d)

    def coordinate_index(self, d):
        return self.back.coordinate_index(d)

    def init(self, d, generator=None):
        return self.back.init(d, generator)

    def is_dormant(self, theta, d):
        return self.back.is_dormant(theta, d)

    def feature_parameters(self, theta, d):
        return self.back.feature_parameters(theta, d)

    def set_feature_parameters(self, theta, d, values):
        self.back.set_feature_parameters(theta, d, values)

    def features(self, parameters, x):
        return self.back.features(parameters, x)

    def forward(self, theta, x):
        with torch.no_grad():
            y, log_det = self.back.inverse(theta, x)
        if not (torch.is_grad_enabled() and (theta.requires_grad or x.requires_grad)):
            return y, log_det
        # implicit function theorem: one Newton step from the solution carries the derivatives
        with torch.no_grad():
            back = self.back.linearize(theta, y)
        y = y + _Solve.apply(x - self.back.forward(theta, y)[0], back)
        return y, -self.back.forward(theta, y)[1]

    def inverse(self, theta, y):
        return self.back.forward(theta, y)

    def linearize(self, theta, x):
        return _InverseLinearization(self, theta, x)


class _Solve(torch.autograd.Function):
    """v -> (dS/dy)^{-1} v at fixed dS/dy."""

    @staticmethod
    def forward(ctx, v, linearization):
        ctx.linearization = linearization
        return linearization.solve(v)

    @staticmethod
    def backward(ctx, v):
        return ctx.linearization.solve_transposed(v), None


class _InverseLinearization(Linearization):
    """From S(y; theta) = x: dT/dx = (dS/dy)^{-1} and dT/dtheta = -(dS/dy)^{-1} dS/dtheta."""

    def __init__(self, flow, theta, x):
        if hasattr(flow.back, "linearize_inverse"):
            self.y, self.back = flow.back.linearize_inverse(theta, x)
        else:
            self.y, _ = flow.forward(theta, x)
            self.back = flow.back.linearize(theta, self.y)
        self.log_det = -self.back.log_det

    def grad_log_det(self):
        return -self.back.solve_transposed(self.back.grad_log_det())

    def push_score(self, score):
        # far out, products of a score with a point overflow: it goes there in units of its own
        length = score.abs().amax(1, keepdim=True)
        unit = torch.where(length > 1e100, length, 1.0)
        return self.back.vjp(score / unit)[1] * unit + self.back.grad_log_det()

    def solve(self, v):
        zero = v.new_zeros(self.back.vjp(v)[0].shape)
        return self.back.jvp(zero, v)

    def solve_transposed(self, v):
        if v.ndim == 3:
            return self.back.jacobian(v)[1]
        return self.back.vjp(v)[1]

    def jvp(self, dtheta, dx=None):
        back = -self.back.jvp(dtheta)
        return self.back.solve(back if dx is None else back + dx)

    def vjp(self, v):
        by_x = self.back.solve_transposed(v)
        return -self.back.vjp(by_x)[0], by_x

    def jacobian(self, left=None):
        n, d = self.y.shape
        if left is None:
            left = self.y.new_ones(n, 1, 1) * self.y.new_ones(d).diag()
        by_x = self.back.solve_transposed(left)
        return -self.back.jacobian(by_x)[0], by_x

    def coordinate_jacobian(self):
        return -self.back.coordinate_jacobian() / self.back.coordinate_slope()[..., None]

    def coordinate_slope(self):
        return 1 / self.back.coordinate_slope()

    def coordinate_moments(self, weights, columns):
        slope = self.back.coordinate_slope()
        own, cross = self.back.coordinate_moments(weights / slope**2, -slope[..., None] * columns)
        return own, cross
