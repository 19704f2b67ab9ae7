"""y = A x + b with A = L U: exact for every Gaussian (section 3.4)."""

from __future__ import annotations

import torch

from .base import Flow, Linearization


class AffineFlow(Flow):
    r"""Affine map :math:`y = L U x + b`, invertible for every theta.

    L is unit lower triangular and U upper triangular with diagonal exp(a), so that
    det = exp(sum a) > 0. With a quadratic potential and a Gaussian start, rho_t stays Gaussian
    and this family has no error (section 3.4 of the paper).

    Parameters
    ----------
    diagonal : bool, default=False
        Keep only the diagonal: 2 d parameters instead of d (d + 1), and a separable map.
    """

    affine = True
    closed_form = True

    def __init__(self, diagonal: bool = False):
        self.diagonal = diagonal

    @property
    def separable(self) -> bool:  # type: ignore[override]
        return self.diagonal

    def n_parameters(self, d):
        return 2 * d if self.diagonal else d * (d + 1)

    def coordinate_index(self, d):
        return torch.stack([torch.arange(d), d + torch.arange(d)], 1)

    def init(self, d, generator=None):
        return torch.zeros(self.n_parameters(d), dtype=torch.float64)

    def _parts(self, theta, d):
        """Shift b (d,), L and U (d, d); theta = (b, a, strict upper of U, strict lower of L)."""
        shift, log_scale = theta[:d], theta[d : 2 * d]
        if self.diagonal:
            return shift, None, log_scale.exp()
        k = d * (d - 1) // 2
        i, j = torch.triu_indices(d, d, 1, device=theta.device)
        zeros = theta.new_zeros(d, d)
        upper = zeros.index_put((i, j), theta[2 * d : 2 * d + k]) + torch.diag(log_scale.exp())
        lower = zeros.index_put((j, i), theta[2 * d + k :]) + torch.eye(
            d, dtype=theta.dtype, device=theta.device
        )
        return shift, lower, upper

    def forward(self, theta, x):
        d = x.shape[1]
        shift, lower, upper = self._parts(theta, d)
        y = x * upper + shift if self.diagonal else x @ (lower @ upper).T + shift
        return y, theta[d : 2 * d].sum().expand(len(x))

    def inverse(self, theta, y):
        d = y.shape[1]
        shift, lower, upper = self._parts(theta, d)
        if self.diagonal:
            x = (y - shift) / upper
        else:
            x = torch.linalg.solve_triangular(lower, (y - shift).T, upper=False, unitriangular=True)
            x = torch.linalg.solve_triangular(upper, x, upper=True).T
        return x, -theta[d : 2 * d].sum().expand(len(y))

    def linearize(self, theta, x):
        return _AffineLinearization(self, theta, x)

    def score_and_divergence(self, theta, y):
        d = y.shape[1]
        here = self.linearize(theta, self.inverse(theta, y)[0])
        root = here.solve_transposed(torch.eye(d, dtype=y.dtype, device=y.device))
        return here.push_score(-here.x), -root.square().sum().expand(len(y))

    def log_density_rate(self, theta, dtheta, y):
        d = y.shape[1]
        here = self.linearize(theta, self.inverse(theta, y)[0])
        along = (here.jvp(dtheta) * here.push_score(-here.x)).sum(1)
        return -dtheta[d : 2 * d].sum() - along

    def with_affine(self, theta, mean, scale):
        d = len(mean)
        shift, lower, upper = self._parts(theta, d)
        if self.diagonal:
            off_diagonal = scale - torch.diag(scale.diagonal())
            if off_diagonal.abs().max() > 0:
                return None
            diagonal = scale.diagonal()
            return torch.cat([mean + diagonal * shift, theta[d:] + diagonal.log()])
        lower = scale @ lower
        pivots = lower.diagonal()
        lower, upper = lower / pivots, pivots[:, None] * upper
        i, j = torch.triu_indices(d, d, 1, device=theta.device)
        return torch.cat([mean + scale @ shift, upper.diagonal().log(), upper[i, j], lower[j, i]])


class _AffineLinearization(Linearization):
    def __init__(self, flow, theta, x):
        self.flow, self.theta, self.x, self.d = flow, theta, x, x.shape[1]
        self.shift, self.lower, self.upper = flow._parts(theta, self.d)
        self.matrix = torch.diag(self.upper) if flow.diagonal else self.lower @ self.upper
        self.y, self.log_det = flow.forward(theta, x)

    def grad_log_det(self):
        return torch.zeros_like(self.x)

    def solve(self, v):
        if self.flow.diagonal:
            return v / self.upper
        v = torch.linalg.solve_triangular(self.lower, v.T, upper=False, unitriangular=True)
        return torch.linalg.solve_triangular(self.upper, v, upper=True).T

    def solve_transposed(self, v):
        if self.flow.diagonal:
            return v / self.upper
        v = torch.linalg.solve_triangular(self.upper, v, upper=True, left=False)
        return torch.linalg.solve_triangular(
            self.lower, v, upper=False, left=False, unitriangular=True
        )

    def _tangent(self, dtheta):
        """db and dA for a tangent dtheta."""
        d = self.d
        k = d * (d - 1) // 2
        i, j = torch.triu_indices(d, d, 1, device=dtheta.device)
        dU = torch.diag(dtheta[d : 2 * d] * self.upper.diagonal())
        dU[i, j] = dtheta[2 * d : 2 * d + k]
        dL = torch.zeros_like(dU)
        dL[j, i] = dtheta[2 * d + k :]
        return dtheta[:d], dL @ self.upper + self.lower @ dU

    def tangent(self, db, dA):
        """The dtheta that moves b by db (d,) and A by dA (d, d); full maps only.

        From dA = dL U + L dU: L^{-1} dA U^{-1} is L^{-1} dL (strictly lower) + dU U^{-1} (upper).
        """
        M = torch.linalg.solve_triangular(self.lower, dA, upper=False, unitriangular=True)
        M = torch.linalg.solve_triangular(self.upper, M, upper=True, left=False)
        dL, dU = self.lower @ M.tril(-1), M.triu() @ self.upper
        i, j = torch.triu_indices(self.d, self.d, 1, device=dA.device)
        return torch.cat([db, dU.diagonal() / self.upper.diagonal(), dU[i, j], dL[j, i]])

    def jvp(self, dtheta, dx=None):
        d = self.d
        if self.flow.diagonal:
            dy = dtheta[:d] + self.x * (self.upper * dtheta[d:])
            return dy if dx is None else dy + dx * self.upper
        db, dA = self._tangent(dtheta)
        dy = self.x @ dA.T + db
        return dy if dx is None else dy + dx @ self.matrix.T

    def vjp(self, v):
        if self.flow.diagonal:
            return torch.cat([v.sum(0), self.upper * (v * self.x).sum(0)]), v * self.upper
        gA = v.T @ self.x
        gU, gL = self.lower.T @ gA, gA @ self.upper.T
        i, j = torch.triu_indices(self.d, self.d, 1, device=v.device)
        diagonal = gU.diagonal() * self.upper.diagonal()
        return torch.cat([v.sum(0), diagonal, gU[i, j], gL[j, i]]), v @ self.matrix

    def jacobian(self, left=None):
        n, d, x = len(self.x), self.d, self.x
        left = (
            torch.eye(d, dtype=x.dtype, device=x.device).expand(n, d, d) if left is None else left
        )
        if self.flow.diagonal:
            return torch.cat([left, left * (self.upper * x)[:, None]], 2), left * self.upper
        i, j = torch.triu_indices(d, d, 1, device=x.device)
        by_row = left @ self.lower  # dA = L dU
        Ux = x @ self.upper.T  # dA = dL U
        columns = [
            left,
            by_row * (self.upper.diagonal() * x)[:, None],
            by_row[:, :, i] * x[:, None, j],
            left[:, :, j] * Ux[:, None, i],
        ]
        return torch.cat(columns, 2), left @ self.matrix

    def coordinate_jacobian(self):
        return torch.stack([torch.ones_like(self.x), self.upper * self.x], 2)

    def coordinate_slope(self):
        return self.upper.expand_as(self.x)
