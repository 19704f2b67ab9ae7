"""Smooth triangular (autoregressive) maps: y_i = x_i exp(s_i(x_<i)) + m_i(x_<i)."""

from __future__ import annotations

from functools import cached_property, lru_cache

import torch
from torch import Tensor

from .base import Flow, Linearization


class TriangularFlow(Flow):
    r"""y_i = x_i exp(s_i(x_<i)) + m_i(x_<i), the conditioners a masked tanh layer.

    Hidden unit k is h_k = tanh(w_k . x + b_k) and sees the first ``degree_k`` coordinates
    only; s_i and m_i are linear in the units of degree at most i. The map is invertible
    whatever theta is (one pass a coordinate), its Jacobian is triangular, and its score is
    smooth. With zero outer weights it is the identity.

    Parameters
    ----------
    n_hidden : int, default=32
        Hidden units, shared by all coordinates, their degrees spread evenly over 1..d-1.
    reverse : bool, default=False
        Order the coordinates from the last to the first.
    reserve : bool, default=False
        Take part in a march only when its residual asks for more capacity; the hidden units
        are then trained on that residual.
    """

    def __init__(self, n_hidden: int = 32, reverse: bool = False, reserve: bool = False):
        self.n_hidden = n_hidden
        self.reverse = reverse
        self.reserve = reserve

    def _masks(self, d):
        """Which inner weights (M, d) and which outer weights (d, M) exist."""
        return _masks(self.n_hidden, d)

    def n_parameters(self, d):
        if d == 1:
            return 0
        inner, outer = self._masks(d)
        return int(inner.sum()) + self.n_hidden + 2 * int(outer.sum())

    def init(self, d, generator=None):
        theta = torch.zeros(self.n_parameters(d), dtype=torch.float64)
        if d == 1:
            return theta
        inner, _ = self._masks(d)
        fan_in = inner.sum(1)[torch.nonzero(inner)[:, 0]]
        k = int(inner.sum())
        weights = torch.randn(k, dtype=torch.float64, generator=generator)
        theta[:k] = weights * 1.5 / fan_in.sqrt()
        theta[k : k + self.n_hidden] = 1.5 * torch.randn(
            self.n_hidden, dtype=torch.float64, generator=generator
        )
        return theta

    def _parts(self, theta, d):
        """Inner weights (M, d), biases (M,), outer weights of s and m (d, M)."""
        M = self.n_hidden
        inner, outer = _places(M, d, theta.device)
        w, b, s, m = theta.split([len(inner[0]), M, len(outer[0]), len(outer[0])])

        def fill(shape, where, values):
            return theta.new_zeros(shape).index_put(where, values)

        return fill((M, d), inner, w), b, fill((d, M), outer, s), fill((d, M), outer, m)

    def is_dormant(self, theta, d):
        """Whether the outer weights are zero, so that the hidden units have no effect."""
        return d > 1 and not theta[self._n_inner(d) :].any()

    def _n_inner(self, d):
        return int(self._masks(d)[0].sum()) + self.n_hidden

    def feature_parameters(self, theta: Tensor, d: int) -> Tensor:
        """Inner weights and biases, the parameters of the hidden units."""
        return theta[: self._n_inner(d)]

    def set_feature_parameters(self, theta: Tensor, d: int, values: Tensor) -> None:
        """Write them into theta."""
        theta[: self._n_inner(d)] = values

    def features(self, parameters: Tensor, x: Tensor) -> list[Tensor]:
        """Functions (n, p_i) that the velocity of coordinate i combines at the identity."""
        d = x.shape[1]
        theta = torch.cat([parameters, parameters.new_zeros(2 * int(self._masks(d)[1].sum()))])
        weight, bias, _, _ = self._parts(theta, d)
        inputs = x.flip(1) if self.reverse else x
        hidden = torch.tanh(inputs @ weight.T + bias)
        # the units that a coordinate may use come first
        seen = [hidden[:, :units] for units in self._masks(d)[1].sum(1).tolist()]
        seen = seen[::-1] if self.reverse else seen
        return [torch.cat([h, h * x[:, i, None]], 1) for i, h in enumerate(seen)]

    def forward(self, theta, x):
        if x.shape[1] == 1:
            return x, torch.zeros_like(x[:, 0])
        if self.reverse:
            x = x.flip(1)
        weight, bias, outer_s, outer_m = self._parts(theta, x.shape[1])
        hidden = torch.tanh(x @ weight.T + bias)
        s = hidden @ outer_s.T
        y = x * s.exp() + hidden @ outer_m.T
        return y.flip(1) if self.reverse else y, s.sum(1)

    def inverse(self, theta, y):
        d = y.shape[1]
        if d == 1:
            return y, torch.zeros_like(y[:, 0])
        if self.reverse:
            y = y.flip(1)
        weight, bias, outer_s, outer_m = self._parts(theta, d)
        x, total = torch.zeros_like(y), torch.zeros_like(y[:, 0])
        active = bias.expand(len(y), -1).clone()
        degree = self._masks(d)[0].sum(1)
        for i in range(d):
            # units of degree <= i have seen all their inputs
            units = int((degree <= i).sum())
            hidden = torch.tanh(active[:, :units])
            s = hidden @ outer_s[i, :units]
            x[:, i] = (y[:, i] - hidden @ outer_m[i, :units]) * (-s).exp()
            total = total - s
            active[:, units:] += x[:, i, None] * weight[units:, i]
        return x.flip(1) if self.reverse else x, total

    def linearize(self, theta, x):
        if x.shape[1] == 1:
            return _Trivial(x)
        return _TriangularLinearization(self, theta, x)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is kept serves gradients too
def _masks(n_hidden: int, d: int) -> tuple[Tensor, Tensor]:
    degree = 1 + torch.arange(n_hidden) * (d - 1) // n_hidden
    return torch.arange(d)[None] < degree[:, None], torch.arange(d)[:, None] >= degree[None]


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _places(n_hidden: int, d: int, device: torch.device) -> list[tuple[Tensor, ...]]:
    """Rows and columns of the weights that exist; made once, as finding them waits for a GPU."""
    masks = _masks(n_hidden, d)
    return [tuple(k.to(device) for k in torch.nonzero(mask, as_tuple=True)) for mask in masks]


class _TriangularLinearization(Linearization):
    """Written for the order 1..d; points and tangents are flipped on the way in and out."""

    def __init__(self, flow, theta, x):
        self.flow, self.d = flow, x.shape[1]
        self.x = x = self._flip(x)
        self.weight, bias, self.outer_s, self.outer_m = flow._parts(theta, self.d)
        self.hidden = torch.tanh(x @ self.weight.T + bias)
        self.slope = 1 - self.hidden.square()
        s = self.hidden @ self.outer_s.T
        self.scale = s.exp()
        self.scaled = x * self.scale
        self.y = self._flip(self.scaled + self.hidden @ self.outer_m.T)
        self.log_det = s.sum(1)
        self.solved = False

    def _flip(self, x):
        return x.flip(-1) if self.flow.reverse else x

    def _by_hidden(self):
        """dy/d(hidden argument), (n, d, M)."""
        outer = self.scaled[:, :, None] * self.outer_s + self.outer_m
        return outer * self.slope[:, None]

    @cached_property
    def by_x(self):
        """dy/dx (n, d, d), lower triangular."""
        return self._by_hidden() @ self.weight + torch.diag_embed(self.scale)

    @cached_property
    def by_y(self):
        """Its inverse: products with it are many, in every conjugate-gradient iteration."""
        identity = torch.eye(self.d, dtype=self.x.dtype, device=self.x.device).expand_as(self.by_x)
        return torch.linalg.solve_triangular(self.by_x, identity, upper=False)

    def _substitute(self, v):
        """(dy/dx)^-T v from the last coordinate to the first, in n d M operations, not n d^2 M."""
        rows = [v] * self.d
        by_active = torch.zeros_like(self.hidden)
        for i in reversed(range(self.d)):
            row = (v[:, i] - (by_active * self.slope) @ self.weight[:, i]) / self.scale[:, i]
            by_active = by_active.addr(row * self.scaled[:, i], self.outer_s[i])
            by_active = by_active.addr(row, self.outer_m[i])
            rows[i] = row
        return torch.stack(rows, 1)

    def grad_log_det(self):
        return self._flip((self.outer_s.sum(0) * self.slope) @ self.weight)

    def solve(self, v):
        return self._flip((self.by_y @ self._flip(v)[:, :, None])[:, :, 0])

    def solve_transposed(self, v):
        if v.ndim == 2 and self.d >= 8 and not self.solved and "by_y" not in self.__dict__:
            self.solved = True  # who asks again gets the inverse
            return self._flip(self._substitute(self._flip(v)))
        rows = self._flip(v if v.ndim == 3 else v[:, None]) @ self.by_y
        return self._flip(rows if v.ndim == 3 else rows[:, 0])

    def jvp(self, dtheta, dx=None):
        dweight, dbias, douter_s, douter_m = self.flow._parts(dtheta, self.d)
        dactive = self.x @ dweight.T + dbias
        if dx is not None:
            dx = self._flip(dx)
            dactive = dactive + dx @ self.weight.T
        dhidden = self.slope * dactive
        ds = self.hidden @ douter_s.T + dhidden @ self.outer_s.T
        dy = self.scaled * ds + self.hidden @ douter_m.T + dhidden @ self.outer_m.T
        return self._flip(dy if dx is None else dy + self.scale * dx)

    def _flatten(self, weight, bias, outer_s, outer_m):
        inner, outer = self._places()
        return torch.cat([weight[inner], bias, outer_s[outer], outer_m[outer]])

    def _places(self):
        return _places(self.flow.n_hidden, self.d, self.x.device)

    def vjp(self, v):
        v = self._flip(v)
        by_s = v * self.scaled
        by_active = (by_s @ self.outer_s + v @ self.outer_m) * self.slope
        dtheta = self._flatten(
            by_active.T @ self.x, by_active.sum(0), by_s.T @ self.hidden, v.T @ self.hidden
        )
        return dtheta, self._flip(v * self.scale + by_active @ self.weight)

    def jacobian(self, left=None):
        n, d = self.x.shape
        left = (
            torch.eye(d, dtype=self.x.dtype, device=self.x.device).expand(n, d, d)
            if left is None
            else left
        )
        left = self._flip(left)
        by_active = left @ self._by_hidden()
        (unit, coordinate), (row, feature) = self._places()
        by_m = left[:, :, row] * self.hidden[:, None, feature]
        columns = [
            by_active[:, :, unit] * self.x[:, None, coordinate],
            by_active,
            by_m * self.scaled[:, None, row],
            by_m,
        ]
        by_x = by_active @ self.weight + left * self.scale[:, None]
        return torch.cat(columns, 2), self._flip(by_x)


class _Trivial(Linearization):
    """In one dimension there is nothing before the first coordinate: the identity."""

    def __init__(self, x):
        self.y, self.log_det = x, torch.zeros_like(x[:, 0])

    def grad_log_det(self):
        return torch.zeros_like(self.y)

    def solve(self, v):
        return v

    def solve_transposed(self, v):
        return v

    def jvp(self, dtheta, dx=None):
        return torch.zeros_like(self.y) if dx is None else dx

    def vjp(self, v):
        return v.new_zeros(0), v

    def jacobian(self, left=None):
        left = torch.ones_like(self.y)[:, :, None] if left is None else left
        return left.new_zeros(*left.shape[:2], 0), left
