"""One monotone function of the radius: round laws with any profile."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .base import Flow, Linearization
from .bases import CubicSplines

_NODES, _WEIGHTS = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(10))
_NODES, _WEIGHTS = (_NODES + 1) / 2, _WEIGHTS / 2
_REACH = 4.0  # standard deviations of the radius of N(0, I) and more, on either side of its middle
_TINY = 1e-150


class RadialFlow(Flow):
    r"""y = R(r) x / r with r = \|x\| and R(r) = int_0^r exp q(u) du, q a cubic spline.

    Behind an affine map these are the elliptical laws. Written on the side of the reference they
    come close to a law of compact support: q falls like -r^2 / 4 where the density falls to zero
    linearly, and next to no mass lies outside. The knots are uniform about sqrt(d), and q is
    constant outside. theta = 0 is the identity.

    Parameters
    ----------
    n_intervals : int, default=12
        Knot intervals; there are three parameters more.
    """

    def __init__(self, n_intervals: int = 12):
        self.n_intervals = n_intervals

    def n_parameters(self, d):
        return self.n_intervals + 3

    def numbers_per_point(self, d):
        return 2 * d + (len(_NODES) + 4) * self.n_parameters(d)

    def init(self, d, generator=None):
        return torch.zeros(self.n_parameters(d), dtype=torch.float64)

    def forward(self, theta, x):
        profile = _Profile(self, theta, x.shape[1])
        r = _length(x)
        return x * (profile(r) / r)[:, None], profile.log_det(r)

    @torch.no_grad()
    def inverse(self, theta, y):
        profile = _Profile(self, theta, y.shape[1])
        length = _length(y)
        r = profile.solve(length)
        return y * (r / length)[:, None], -profile.log_det(r)

    def linearize(self, theta, x):
        return _RadialLinearization(self, theta, x)


def _length(x: Tensor) -> Tensor:
    return x.norm(dim=1).clamp(min=_TINY)


class _Profile:
    """R, its slope exp q, and its derivatives in theta."""

    def __init__(self, flow: RadialFlow, theta: Tensor, d: int):
        self.theta, self.d = theta, d
        start, end = max(0.0, math.sqrt(d) - _REACH), math.sqrt(d) + _REACH
        self.knots = torch.linspace(start, end, flow.n_intervals + 1, dtype=torch.float64).to(theta)
        self.basis = CubicSplines(self.knots.tolist())
        cells = torch.arange(flow.n_intervals)
        self.active = (cells[:, None] + torch.arange(4)).to(theta.device)  # functions on a cell
        self.pieces = self.basis.pieces.to(theta)  # their coefficients (cells, 4, 4)
        self.cubics = (self.pieces * theta[self.active][:, :, None]).sum(1)
        inner = self.knots[0] * self.cubics[0, -1].exp()
        whole = self._weights(cells, self.knots.diff())[0].sum(1)
        self.at_knots = torch.cat([inner[None], whole]).cumsum(0)  # of R
        self.ends = (self.basis(self.knots[[0, -1]]) @ theta).exp()

    def _weights(self, k: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted exp q at nodes (n, nodes) from the start of cells k on, and places in them."""
        s = width[:, None] * _NODES.to(width)
        return width[:, None] * _WEIGHTS.to(width) * _horner(self.cubics[k], s).exp(), s

    def _place(self, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """r held within the knots, its cell, and what the slope outside adds to R."""
        inside = r.clamp(self.knots[0], self.knots[-1])
        k = torch.searchsorted(self.knots, inside.detach().contiguous(), right=True) - 1
        k = k.clamp(0, len(self.knots) - 2)
        slope = torch.where(r < inside, self.ends[0], self.ends[1])
        return inside, k, (r - inside) * slope

    def __call__(self, r: Tensor) -> Tensor:
        """R (n,) at radii r (n,)."""
        inside, k, beyond = self._place(r)
        return self.at_knots[k] + self._weights(k, inside - self.knots[k])[0].sum(1) + beyond

    def by_theta(self, r: Tensor) -> Tensor:
        """dR / dtheta (n, m)."""
        inside, k, beyond = self._place(r)
        cells = torch.arange(len(self.active)).to(k)
        start = self.basis(self.knots[:1]) * self.knots[0] * self.ends[0]
        before = torch.cat([start, self._moments(cells, self.knots.diff())]).cumsum(0)
        here = self._moments(k, inside - self.knots[k])
        return before[k] + here + beyond[:, None] * self.basis(inside)

    def _moments(self, k: Tensor, width: Tensor) -> Tensor:
        """Integrals of exp q times the functions (n, m), from the start of cells k on."""
        weights, s = self._weights(k, width)
        some = (weights[:, None] * _horner(self.pieces[k], s[:, None])).sum(2)
        return width.new_zeros(len(k), self.basis.size).scatter(1, self.active[k], some)

    def q(self, r: Tensor) -> Tensor:
        """The log-slope (n,)."""
        inside, k, _ = self._place(r)
        return _horner(self.cubics[k], (inside - self.knots[k])[:, None])[:, 0]

    def log_det(self, r: Tensor) -> Tensor:
        """q + (d - 1) log(R / r)."""
        return self.q(r) + (self.d - 1) * (self(r) / r).log()

    def solve(self, length: Tensor) -> Tensor:
        """The radius whose image is ``length`` (n,): Newton's method, guarded by bisection."""
        k = torch.searchsorted(self.at_knots, length.contiguous(), right=True)
        last = len(self.knots)
        low = torch.where(k > 0, self.knots[(k - 1).clamp(min=0)], 0.0)
        far = self.knots[-1] + (length - self.at_knots[-1]).clamp(min=0.0) / self.ends[1]
        high = torch.where(k < last, self.knots[k.clamp(max=last - 1)], 2 * far)
        middle = (low + high) / 2
        r = torch.where(k == 0, length / self.ends[0], torch.where(k == last, far, middle))
        for _ in range(60):
            gap = self(r) - length
            low, high = torch.where(gap < 0, r, low), torch.where(gap > 0, r, high)
            new = r - gap * (-self.q(r)).exp()
            new = torch.where((new > low) & (new < high), new, (low + high) / 2)
            new = torch.where(gap == 0, r, new)
            moved = float(((new - r).abs() / r.clamp(min=_TINY)).max())
            r = new
            if moved < 1e-10:  # the last step has squared that
                break
        return r.clamp(min=_TINY)


def _horner(coefficients: Tensor, s: Tensor) -> Tensor:
    """Cubics with coefficients (..., 4), the highest power first, at s (..., k)."""
    a, b, c, e = coefficients[..., None].unbind(-2)
    return ((a * s + b) * s + c) * s + e


class _RadialLinearization(Linearization):
    """dT/dx = R / r (I - e e^T) + R' e e^T with e = x / r, symmetric."""

    def __init__(self, flow, theta, x):
        profile = _Profile(flow, theta, x.shape[1])
        self.r = _length(x)
        self.direction = x / self.r[:, None]
        value, self.by_theta, q = profile(self.r), profile.by_theta(self.r), profile.q(self.r)
        self.bend = profile.basis(self.r, 1) @ theta
        self.slope, self.across = q.exp(), value / self.r
        self.y = self.direction * value[:, None]
        self.log_det = q + (x.shape[1] - 1) * self.across.log()

    def _apply(self, v: Tensor, along: Tensor, across: Tensor) -> Tensor:
        """along e e^T v + across (I - e e^T) v, for v (n, d) or (n, r, d)."""
        e, shape = self.direction, (-1, *[1] * (v.ndim - 1))
        e = e if v.ndim == 2 else e[:, None]
        radial = (v * e).sum(-1, keepdim=True) * e
        return along.view(shape) * radial + across.view(shape) * (v - radial)

    def grad_log_det(self):
        rest = self.slope / (self.across * self.r) - 1 / self.r
        return (self.bend + (self.y.shape[1] - 1) * rest)[:, None] * self.direction

    def solve(self, v):
        return self._apply(v, 1 / self.slope, 1 / self.across)

    def solve_transposed(self, v):
        return self.solve(v)

    def jvp(self, dtheta, dx=None):
        out = (self.by_theta @ dtheta)[:, None] * self.direction
        return out if dx is None else out + self._apply(dx, self.slope, self.across)

    def vjp(self, v):
        by_theta = (v * self.direction).sum(1) @ self.by_theta
        return by_theta, self._apply(v, self.slope, self.across)

    def jacobian(self, left=None):
        n, d = self.y.shape
        if left is None:
            left = torch.eye(d).to(self.y).expand(n, d, d)
        along = (left * self.direction[:, None]).sum(2)
        by_x = self._apply(left, self.slope, self.across)
        return along[:, :, None] * self.by_theta[:, None], by_x
