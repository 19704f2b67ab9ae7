"""Scales that run away exponentially: the necks of hierarchies."""

from __future__ import annotations

import torch

from .base import Flow, Linearization

_BOUND = 20.0


class ScaleFlow(Flow):
    r"""y_i = x_i exp(s_i), s_i = b tanh(sum_{j<i} A_ij x_j / b), b = 20.

    Log scales are linear in the coordinates before, as in Neal's funnel, over any range that a
    posterior covers; the bound keeps the inverse finite everywhere. The conditioners of
    ``TriangularFlow`` level off much earlier, so that their scales stop shrinking where a neck
    goes on.
    """

    def n_parameters(self, d):
        return d * (d - 1) // 2

    def init(self, d, generator=None):
        return torch.zeros(self.n_parameters(d), dtype=torch.float64)

    @staticmethod
    def _matrix(theta, d):
        i, j = torch.tril_indices(d, d, -1, device=theta.device)
        return theta.new_zeros(d, d).index_put((i, j), theta)

    def forward(self, theta, x):
        s = _BOUND * torch.tanh(x @ self._matrix(theta, x.shape[1]).T / _BOUND)
        return x * s.exp(), s.sum(1)

    def inverse(self, theta, y):
        matrix, columns, total = self._matrix(theta, y.shape[1]), [], torch.zeros_like(y[:, 0])
        for i in range(y.shape[1]):
            s = sum((matrix[i, j] * columns[j] for j in range(i)), torch.zeros_like(total))
            s = _BOUND * torch.tanh(s / _BOUND)
            columns.append(y[:, i] * (-s).exp())
            total = total - s
        return torch.stack(columns, 1), total

    def linearize(self, theta, x):
        return _ScaleLinearization(self, theta, x)


class _ScaleLinearization(Linearization):
    """dy/dx = diag(exp s) + diag(y s') A, lower triangular, s' = 1 - (s / b)^2."""

    def __init__(self, flow, theta, x):
        self.x, self.matrix = x, flow._matrix(theta, x.shape[1])
        s = _BOUND * torch.tanh(x @ self.matrix.T / _BOUND)
        self.slope = 1 - (s / _BOUND).square()
        self.scale, self.log_det = s.exp(), s.sum(1)
        self.y = x * self.scale
        self.by_active = self.y * self.slope
        self.rows = torch.tril_indices(x.shape[1], x.shape[1], -1, device=x.device)

    def _by_x(self):
        return torch.diag_embed(self.scale) + self.by_active[:, :, None] * self.matrix

    def grad_log_det(self):
        return self.slope @ self.matrix

    def solve(self, v):
        return torch.linalg.solve_triangular(self._by_x(), v[:, :, None], upper=False)[:, :, 0]

    def solve_transposed(self, v):
        rows = v if v.ndim == 3 else v[:, None]
        out = torch.linalg.solve_triangular(self._by_x(), rows, upper=False, left=False)
        return out if v.ndim == 3 else out[:, 0]

    def jvp(self, dtheta, dx=None):
        dy = self.by_active * (self.x @ ScaleFlow._matrix(dtheta, self.x.shape[1]).T)
        return dy if dx is None else dy + (self._by_x() @ dx[:, :, None])[:, :, 0]

    def vjp(self, v):
        i, j = self.rows
        pulled = v * self.by_active
        return (pulled.T @ self.x)[i, j], v * self.scale + pulled @ self.matrix

    def jacobian(self, left=None):
        n, d = self.x.shape
        left = torch.eye(d).to(self.x).expand(n, d, d) if left is None else left
        i, j = self.rows
        return (left * self.by_active[:, None])[:, :, i] * self.x[:, None, j], left @ self._by_x()
