"""One monotone function a coordinate, its log-slope a cubic spline."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .base import Flow, Linearization

# Gauss-Legendre nodes and weights on [0, 1]: exp(cubic) over one knot interval to rounding.
_NODES, _WEIGHTS = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(8))
_NODES, _WEIGHTS = (_NODES + 1) / 2, _WEIGHTS / 2

# Uniform cubic B-splines on one interval: monomial coefficients (4 splines, 4 powers).
_SPLINES = (
    torch.tensor([[1, -3, 3, -1], [4, 0, -6, 3], [1, 3, 3, -3], [0, 0, 0, 1]], dtype=torch.float64)
    / 6
)


class ElementwiseFlow(Flow):
    r"""y_i = c_i + int_0^{x_i} exp(q_i(u)) du, with q_i a cubic spline: monotone for every theta.

    The log-slope q has uniform knots on [-radius, radius] and is constant outside, so that the
    map is onto R, twice continuously differentiable with a C^2 log-slope, and affine in the
    tails. The integral is Gauss-Legendre on each knot interval. theta = 0 is the identity.

    Parameters
    ----------
    n_intervals : int, default=24
        Knot intervals, an even number of at least 6. There are ``n_intervals`` parameters a
        coordinate: the shift c and ``n_intervals - 1`` spline coefficients.
    radius : float, default=5.0
        Half-width of the knots, in units of the input (standard deviations for a first layer).
    """

    separable = True

    def __init__(self, n_intervals: int = 24, radius: float = 5.0):
        self.n_intervals = n_intervals
        self.radius = radius

    def _check(self):
        if self.n_intervals < 6 or self.n_intervals % 2:
            raise ValueError(
                f"n_intervals={self.n_intervals} of ElementwiseFlow must be an even integer of "
                "at least 6; try 24."
            )

    def n_parameters(self, d):
        return d * self.n_intervals

    def coordinate_index(self, d):
        return torch.arange(self.n_parameters(d)).view(d, self.n_intervals)

    def init(self, d, generator=None):
        self._check()
        return torch.zeros(self.n_parameters(d), dtype=torch.float64)

    def forward(self, theta, x):
        spline = _LogSlope(self, theta, x.shape[1])
        interval, s, beyond = spline.locate(x)
        y, q = spline.evaluate(interval, s)
        return y + beyond * q.exp(), q.sum(1)

    def inverse(self, theta, y):
        spline = _LogSlope(self, theta, y.shape[1])
        x, q = spline.invert(y)
        return x, -q.sum(1)

    def linearize(self, theta, x):
        return _ElementwiseLinearization(self, theta, x)


class _LogSlope:
    """The d splines q_i as cubics in s in [0, 1] on each interval, and the integral of exp(q)."""

    def __init__(self, flow: ElementwiseFlow, theta: Tensor, d: int):
        self.k, self.radius = flow.n_intervals, flow.radius
        self.h = 2 * flow.radius / self.k
        self.nodes, self.weights, splines = (
            a.to(theta) for a in (_NODES, _WEIGHTS * self.h, _SPLINES)
        )
        shift_coefficients = theta.view(d, self.k)
        self.shift, c = shift_coefficients[:, 0], shift_coefficients[:, 1:]
        # constant ends: the three B-splines that leave [-radius, radius] share a coefficient
        c = torch.cat([c[:, :1].expand(d, 2), c, c[:, -1:].expand(d, 2)], 1)
        windows = torch.stack([c[:, j : j + self.k] for j in range(4)], 2)
        self.cubics = windows @ splines  # (d, k, 4 powers)
        whole = self._slope(self.cubics[:, :, None, :], self.nodes) @ self.weights  # (d, k)
        values = torch.cat([whole.new_zeros(d, 1), whole.cumsum(1)], 1)
        self.values = values - values[:, self.k // 2, None] + self.shift[:, None]  # at the knots
        self.coordinate = torch.arange(d, device=theta.device)

    @staticmethod
    def _polynomial(cubic, s):
        return cubic[..., 0] + s * (cubic[..., 1] + s * (cubic[..., 2] + s * cubic[..., 3]))

    def _slope(self, cubic, s):
        return self._polynomial(cubic, s).exp()

    def locate(self, x):
        """Interval (n, d), position in it in [0, 1], and how far x lies outside the knots."""
        inside = x.clamp(-self.radius, self.radius)
        s = (inside + self.radius) / self.h
        interval = s.detach().floor().clamp(0, self.k - 1)
        return interval.long(), s - interval, x - inside

    def evaluate(self, interval, s):
        """Integral of exp(q) up to s in the interval, plus shift, and q at s; both (n, d)."""
        cubic = self.cubics[self.coordinate, interval]
        part = self._slope(cubic[:, :, None, :], s[..., None] * self.nodes) @ self.weights
        y = self.values[self.coordinate, interval] + s * part
        return y, self._polynomial(cubic, s)

    def invert(self, y):
        """Points x with y = c + int_0^x exp(q), by Newton kept inside a shrinking bracket."""
        below = torch.searchsorted(self.values, y.T.contiguous(), right=True).T - 1
        interval = below.clamp(0, self.k - 1)
        inside = y.maximum(self.values[:, 0]).minimum(self.values[:, -1])
        left = self.values[self.coordinate, interval]
        right = self.values[self.coordinate, interval + 1]
        s = ((inside - left) / (right - left)).clamp(0, 1)
        low, high = torch.zeros_like(s), torch.ones_like(s)
        small = torch.finfo(s.dtype).eps ** 0.5
        for _ in range(60):
            value, q = self.evaluate(interval, s)
            error = value - inside
            low, high = torch.where(error > 0, low, s), torch.where(error > 0, s, high)
            newton = s - error / (self.h * q.exp())
            guarded = torch.where((newton >= low) & (newton <= high), newton, (low + high) / 2)
            converged = (guarded - s).abs().max() < small  # this step then squared the error
            s = guarded
            if converged:
                break
        q = self._polynomial(self.cubics[self.coordinate, interval], s)
        x = (interval + s) * self.h - self.radius + (y - inside) * (-q).exp()
        return x, q

    def derivatives(self, interval, s, beyond):
        """y, q, dq/dx and dy/dtheta (n, d, k) at once."""
        n, d = s.shape
        cubic = self.cubics[self.coordinate, interval]
        splines = _SPLINES.to(s)

        def powers(s):
            return torch.stack([torch.ones_like(s), s, s * s, s * s * s], -1)

        at_nodes = powers(s[..., None] * self.nodes)  # (n, d, Q, 4)
        slope = (at_nodes @ cubic[..., None])[..., 0].exp() * self.weights * s[..., None]
        y = self.values[self.coordinate, interval] + slope.sum(-1)
        q = self._polynomial(cubic, s)
        by_power = (slope[..., None, :] @ at_nodes)[..., 0, :]  # int s^j exp(q), j = 0..3
        outside = beyond != 0
        tail = beyond * q.exp()
        by_spline = by_power @ splines.T + (tail[..., None] * powers(s)) @ splines.T
        # whole intervals between the middle knot and the interval of x, from a table
        whole = self._slope(self.cubics[:, :, None, :], self.nodes) * self.weights  # (d, k, Q)
        whole = (whole @ powers(self.nodes)) @ splines.T  # (d, k, 4 splines)
        table = whole.new_zeros(d, self.k + 1, self.k + 3)
        for spline in range(4):
            rows = torch.arange(self.k)
            table[:, rows + 1, rows + spline] = whole[:, :, spline]
        table = table.cumsum(1)
        table = _share_ends(table - table[:, self.k // 2, None])  # (d, k + 1, k - 1)
        by_theta = s.new_ones(n, d, self.k)
        by_theta[:, :, 1:] = table[self.coordinate, interval]
        for spline in range(4):
            column = (interval + spline - 2).clamp(0, self.k - 2) + 1
            by_theta.scatter_add_(2, column[..., None], by_spline[..., spline, None])
        slope_q = (cubic[..., 1] + s * (2 * cubic[..., 2] + 3 * s * cubic[..., 3])) / self.h
        return y + tail, q, torch.where(outside, 0.0, slope_q), by_theta


def _share_ends(table):
    """Sum the three columns at either end, which stand for one coefficient."""
    return torch.cat(
        [table[..., :3].sum(-1, keepdim=True), table[..., 3:-3], table[..., -3:].sum(-1, True)], -1
    )


class _ElementwiseLinearization(Linearization):
    def __init__(self, flow, theta, x):
        spline = _LogSlope(flow, theta, x.shape[1])
        self.y, q, self.slope_q, self.by_theta = spline.derivatives(*spline.locate(x))
        self.log_det, self.slope = q.sum(1), q.exp()

    def grad_log_det(self):
        return self.slope_q

    def solve(self, v):
        return v / self.slope

    def solve_transposed(self, v):
        return v / (self.slope if v.ndim == 2 else self.slope[:, None])

    def jvp(self, dtheta, dx=None):
        dy = torch.einsum("ndp,dp->nd", self.by_theta, dtheta.view(self.by_theta.shape[1:]))
        return dy if dx is None else dy + self.slope * dx

    def vjp(self, v):
        return torch.einsum("ndp,nd->dp", self.by_theta, v).reshape(-1), v * self.slope

    def jacobian(self, left=None):
        n, d, p = self.by_theta.shape
        if left is None:
            left = torch.eye(d).to(self.by_theta).expand(n, d, d)
        by_theta = left[:, :, :, None] * self.by_theta[:, None]
        return by_theta.reshape(n, left.shape[1], d * p), left * self.slope[:, None]

    def coordinate_jacobian(self):
        return self.by_theta

    def coordinate_slope(self):
        return self.slope
