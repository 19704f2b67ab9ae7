"""Planar layers x + u tanh(w.x + b): the paper's own family (section 6)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .base import Flow, Linearization

_SMALLEST_SLOPE = 1e-3
_SHIFT = math.log(math.e - 1)  # softplus(_SHIFT) = 1


class PlanarFlow(Flow):
    r"""Composition of planar layers :math:`x \mapsto x + u \tanh(w \cdot x + b)`.

    A layer is invertible where :math:`w \cdot u > -1`, which holds for every theta because u is
    not a parameter itself:

    .. math:: u = v + \frac{\gamma(z) - 1 - z}{|w|^2} w, \qquad z = w \cdot v,

    so that :math:`1 + w \cdot u = \gamma(z) > 0`. Here
    :math:`\gamma(z) = 10^{-3} + (1 - 10^{-3}) \log(1 + (e - 1) e^z)`: v = 0 is the identity layer,
    and no layer compresses any direction by more than a factor of a thousand, which keeps the
    inverse accurate to rounding. A single layer acts along one direction, so that many are
    needed; theta = (w, v, b) of the first layer, then of the second, ...

    Parameters
    ----------
    n_layers : int, default=60
        Number of layers K; theta has length K (2 d + 1).
    init_scale : float, default=1.0
        Standard deviation of the entries of w in :meth:`init`: the inverse width of the tanh.
    init_spread : float, default=1.0
        Standard deviation of the signed distance from the origin to the plane w.x + b = 0 in
        :meth:`init`. At 1, the planes cover the bulk of N(0, I).

    References
    ----------
    D. J. Rezende, S. Mohamed, "Variational inference with normalizing flows" (2015), section
    4.1 and appendix A.1 (the constraint on u).
    """

    def __init__(self, n_layers: int = 60, init_scale: float = 1.0, init_spread: float = 1.0):
        self.n_layers = n_layers
        self.init_scale = init_scale
        self.init_spread = init_spread

    def n_parameters(self, d):
        return self.n_layers * (2 * d + 1)

    def init(self, d, generator=None):
        """The identity exactly (v = 0), with random planes for the first step to work with."""
        options = dict(generator=generator, dtype=torch.float64)
        w = self.init_scale * torch.randn(self.n_layers, d, **options)
        b = self.init_spread * torch.randn(self.n_layers, 1, **options) * w.norm(dim=1)[:, None]
        return torch.cat([w, torch.zeros_like(w), b], 1).reshape(-1)

    def forward(self, theta, x):
        w, u, b, gap = _Layers(theta, self.n_layers, x.shape[1]).maps
        slopes = []
        for k in range(self.n_layers):
            t = torch.tanh(torch.addmv(b[k], x, w[k]))
            x = torch.addr(x, t, u[k])
            slopes.append(t)
        t2 = torch.stack(slopes).square()
        return x, (t2 + (1 - t2) * gap[:, None]).log().sum(0)

    def inverse(self, theta, y):
        w, u, b, gap = _Layers(theta, self.n_layers, y.shape[1]).maps
        log_det = y.new_zeros(len(y))
        for k in reversed(range(self.n_layers)):
            t = torch.tanh(_solve(torch.addmv(b[k], y, w[k]), gap[k]))
            y = torch.addr(y, t, u[k], alpha=-1)
            t2 = t.square()
            log_det = log_det - (t2 + (1 - t2) * gap[k]).log()
        return y, log_det

    def linearize(self, theta, x):
        return _PlanarLinearization(self, theta, x)


class _Layers:
    """w, v, b, u of all layers, and the derivatives of u in (w, v)."""

    def __init__(self, theta: Tensor, n_layers: int, d: int):
        rows = theta.reshape(n_layers, 2 * d + 1)
        self.w, self.v, b = rows[:, :d], rows[:, d : 2 * d], rows[:, 2 * d]
        self.z = (self.w * self.v).sum(1)
        self.w2 = self.w.square().sum(1).clamp_min(1e-30)
        gap = _SMALLEST_SLOPE + (1 - _SMALLEST_SLOPE) * softplus(self.z + _SHIFT)  # 1 + w.u
        self.q = (gap - 1 - self.z) / self.w2
        self.maps = self.w, self.v + self.q[:, None] * self.w, b, gap

    def differentiate(self) -> tuple[Tensor, Tensor]:
        """dq/dw and dq/dv (K, d), where u = v + q w."""
        bend = (1 - _SMALLEST_SLOPE) * torch.sigmoid(self.z + _SHIFT) - 1
        by_v = (bend / self.w2)[:, None] * self.w
        by_w = (bend / self.w2)[:, None] * self.v - (2 * self.q / self.w2)[:, None] * self.w
        return by_w, by_v


def _solve(c: Tensor, gap: Tensor, max_iterations: int = 100) -> Tensor:
    """The root a (n,) of a + (gap - 1) tanh a = c, to rounding.

    The left side is odd, increasing, and on a >= 0 convex (gap < 1) or concave (gap > 1). Newton
    from the upper bound min(c / gap, c + 1 - gap), or from the lower bound max(c / gap,
    c + 1 - gap), is therefore monotone: it cannot overshoot and needs no bisection.
    """
    with torch.no_grad():
        size, tolerance = c.abs(), 4 * torch.finfo(c.dtype).eps
        bounds = size / gap, size + 1 - gap
        a = torch.minimum(*bounds) if gap < 1 else torch.maximum(*bounds)
        for _ in range(max_iterations):
            t = torch.tanh(a)
            slope = gap + (1 - gap) * t * t
            step = (torch.add(a, t, alpha=float(gap) - 1) - size) / slope
            a = a - step
            if bool((step.abs() * slope <= tolerance * (1 + size)).all()):
                break
        a = a.copysign(c)
    if not (c.requires_grad or gap.requires_grad):
        return a
    # One Newton step more, with c and gap attached: the implicit function theorem.
    t = torch.tanh(a)
    slope = (gap + (1 - gap) * t * t).detach()
    return a - (a + (gap - 1) * t - c) / slope


class _PlanarLinearization(Linearization):
    """One pass stores the points and the slopes of every layer; the products walk over them."""

    @torch.no_grad()
    def __init__(self, flow, theta, x):
        n, d = x.shape
        self.n_layers, self.d = flow.n_layers, d
        self.layers = _Layers(theta.detach(), flow.n_layers, d)
        self.w, self.u, b, gap = self.layers.maps
        self.by_w, self.by_v = self.layers.differentiate()
        self.points = x.new_empty(flow.n_layers + 1, n, d)
        self.t = x.new_empty(flow.n_layers, n)
        self.points[0] = x
        for k in range(flow.n_layers):
            torch.tanh(torch.addmv(b[k], self.points[k], self.w[k]), out=self.t[k])
            torch.addr(self.points[k], self.t[k], self.u[k], out=self.points[k + 1])
        self.s = 1 - self.t.square()
        self.det = 1 - self.s + self.s * gap[:, None]
        self.gap = gap
        self.y, self.log_det = self.points[-1].clone(), self.det.log().sum(0)

    @torch.no_grad()
    def grad_log_det(self):
        return -self.vjp(self.push_score(torch.zeros_like(self.y)))[1]

    def push_score(self, score):
        # J = I + s u w^T; by Sherman and Morrison J^{-T} r = r - w s (u.r) / det J, and
        # grad log det J = -2 t s (w.u) / det J w. Together, with 1 = det J - s (w.u):
        slope = -self.s / self.det
        shift = -2 * self.t * slope * (self.gap[:, None] - 1) / self.det
        score = score.clone()
        for k in range(self.n_layers):
            score.addr_(torch.addcmul(shift[k], slope[k], score @ self.u[k]), self.w[k])
        return score

    @torch.no_grad()
    def jvp(self, dtheta, dx=None):
        d, w, u = self.d, self.w, self.u
        rows = dtheta.reshape(self.n_layers, 2 * d + 1)
        dw, dv, db = rows[:, :d], rows[:, d : 2 * d], rows[:, 2 * d]
        dq = (self.by_w * dw + self.by_v * dv).sum(1, keepdim=True)
        du = dv + self.layers.q[:, None] * dw + dq * w
        da = torch.baddbmm(db[:, None, None], self.points[:-1], dw[:, :, None])[..., 0]
        dx = torch.zeros_like(self.y) if dx is None else dx.clone()
        for k in range(self.n_layers):
            dt = self.s[k] * torch.addmv(da[k], dx, w[k])
            dx.addr_(dt, u[k]).addr_(self.t[k], du[k])
        return dx

    @torch.no_grad()
    def vjp(self, v):
        v, ga, gu = v.clone(), torch.empty_like(self.t), torch.empty_like(self.u)
        for k in reversed(range(self.n_layers)):
            torch.mv(v.T, self.t[k], out=gu[k])
            torch.mul(self.s[k], v @ self.u[k], out=ga[k])
            v.addr_(ga[k], self.w[k])
        gw = torch.bmm(ga[:, None], self.points[:-1])[:, 0]
        along = (gu * self.w).sum(1, keepdim=True)
        gw = gw + self.layers.q[:, None] * gu + along * self.by_w
        return torch.cat([gw, gu + along * self.by_v, ga.sum(1, keepdim=True)], 1).reshape(-1), v

    @torch.no_grad()
    def jacobian(self, left=None):
        n, d, K = len(self.y), self.d, self.n_layers
        eye = torch.eye(d, dtype=self.y.dtype, device=self.y.device)
        left = eye.expand(n, d, d).clone() if left is None else left.clone()
        rows = self.y.new_empty(n, left.shape[1], K, 2 * d + 1)
        for k in reversed(
            range(K)
        ):  # a layer at a time: the whole is large, a layer fits the cache
            gu = self.t[k][:, None, None] * left
            ga = self.s[k][:, None] * (left @ self.u[k])
            along = (gu @ self.w[k])[..., None]
            gw = ga[..., None] * self.points[k][:, None]
            gw.add_(self.layers.q[k] * gu)
            torch.addcmul(gw, along, self.by_w[k], out=rows[:, :, k, :d])
            torch.addcmul(gu, along, self.by_v[k], out=rows[:, :, k, d : 2 * d])
            rows[:, :, k, 2 * d] = ga
            left.addcmul_(ga[..., None], self.w[k])
        return rows.reshape(n, left.shape[1], -1), left
