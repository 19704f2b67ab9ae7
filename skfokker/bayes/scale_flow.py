"""Scales that run away exponentially: the necks of hierarchies."""

from __future__ import annotations

import torch

from ..flows.base import Flow, Linearization


class ScaleFlow(Flow):
    r"""y_i = x_i exp(sum_{j<i} A_ij x_j): log scales linear in the coordinates before.

    Neal's funnel is exactly the image of a Gaussian under such a map. The conditioners of
    ``TriangularFlow`` are bounded, so that their scales stop shrinking where a neck goes on; the
    rare draws of a neck are then missed altogether.
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
        s = x @ self._matrix(theta, x.shape[1]).T
        return x * s.exp(), s.sum(1)

    def inverse(self, theta, y):
        matrix, columns, total = self._matrix(theta, y.shape[1]), [], torch.zeros_like(y[:, 0])
        for i in range(y.shape[1]):
            s = sum((matrix[i, j] * columns[j] for j in range(i)), torch.zeros_like(total))
            columns.append(y[:, i] * (-s).exp())
            total = total - s
        return torch.stack(columns, 1), total

    def linearize(self, theta, x):
        return _ScaleLinearization(self, theta, x)


class _ScaleLinearization(Linearization):
    """dy/dx = diag(exp s) + diag(y) A, lower triangular."""

    def __init__(self, flow, theta, x):
        self.x, self.matrix = x, flow._matrix(theta, x.shape[1])
        s = x @ self.matrix.T
        self.scale, self.log_det = s.exp(), s.sum(1)
        self.y = x * self.scale
        self.rows = torch.tril_indices(x.shape[1], x.shape[1], -1, device=x.device)

    def _by_x(self):
        return torch.diag_embed(self.scale) + self.y[:, :, None] * self.matrix

    def grad_log_det(self):
        return self.matrix.sum(0).expand_as(self.x)

    def solve(self, v):
        return torch.linalg.solve_triangular(self._by_x(), v[:, :, None], upper=False)[:, :, 0]

    def solve_transposed(self, v):
        rows = v if v.ndim == 3 else v[:, None]
        out = torch.linalg.solve_triangular(self._by_x(), rows, upper=False, left=False)
        return out if v.ndim == 3 else out[:, 0]

    def jvp(self, dtheta, dx=None):
        dy = self.y * (self.x @ ScaleFlow._matrix(dtheta, self.x.shape[1]).T)
        return dy if dx is None else dy + (self._by_x() @ dx[:, :, None])[:, :, 0]

    def vjp(self, v):
        i, j = self.rows
        pulled = v * self.y
        return (pulled.T @ self.x)[i, j], v * self.scale + pulled @ self.matrix

    def jacobian(self, left=None):
        n, d = self.x.shape
        left = torch.eye(d).to(self.x).expand(n, d, d) if left is None else left
        i, j = self.rows
        return (left * self.y[:, None])[:, :, i] * self.x[:, None, j], left @ self._by_x()
