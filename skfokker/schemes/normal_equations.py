"""The inner problem in closed form: min over xi of E |dT/dtheta xi + g|^2 (equation (28)).

Three ways to the same damped normal equations (Ghat + damping) xi = -E[dT/dtheta^T g]: small
blocks where the map is separable, one factorisation where m is small, and preconditioned
conjugate gradients otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..equation import FokkerPlanck
from ..flows.base import Flow


class InnerProblem:
    """min over xi of E_p |dT/dtheta(X) xi + g(T(X))|^2 at one theta, on weighted points.

    Parameters
    ----------
    equation, flow, theta
        What is solved, T and its parameters (m,).
    x, weights : Tensor (n, d), (n,)
        Reference points and quadrature weights (they sum to one).

    Attributes
    ----------
    linearization : Linearization
    g : Tensor (n, d)
        grad V + beta grad log rho at T(x), the score carried forward pointwise.
    """

    def __init__(
        self, equation: FokkerPlanck, flow: Flow, theta: Tensor, x: Tensor, weights: Tensor
    ):
        self.flow, self.theta, self.x, self.weights = flow, theta, x, weights
        self.linearization = flow.linearize(theta, x)
        self.g = equation.driving_force(self.linearization.y, self.linearization.push_score(-x))

    def mean_square(self, v: Tensor) -> float:
        """E |v|^2 for v (n, d)."""
        return float(v.square().sum(1) @ self.weights)

    def displacement(self, dtheta: Tensor) -> float:
        """Root mean square of dT/dtheta dtheta: the size of dtheta in the space of samples."""
        return self.mean_square(self.linearization.jvp(dtheta)) ** 0.5

    def spread(self) -> float:
        """Root mean square distance of the samples T(x) from their mean."""
        y = self.linearization.y
        return self.mean_square(y - self.weights @ y) ** 0.5


@dataclass(frozen=True)
class Solution:
    """Parameter velocity xi (m,), its sample-space residual dT/dtheta xi + g, CG iterations."""

    xi: Tensor
    residual: Tensor
    iterations: int = 0


class CoordinateSolver:
    """Separable maps: d systems of p unknowns, factorised together."""

    def __init__(self, flow: Flow, d: int, damping: float):
        self.index, self.damping = flow.coordinate_index(d), damping

    def solve(self, problem: InnerProblem) -> Solution:
        g, weights = problem.g, problem.weights
        by_theta = problem.linearization.coordinate_jacobian().transpose(0, 1)  # (d, n, p)
        weighted = by_theta * weights[:, None]
        gram = by_theta.mT @ weighted
        xi_by_coordinate = damped_solve(gram, -weighted.mT @ g.T[:, :, None], self.damping)
        residual = (by_theta @ xi_by_coordinate)[:, :, 0].T + g
        xi = g.new_zeros(self.index.numel())
        xi[self.index.to(g.device)] = xi_by_coordinate[:, :, 0]
        return Solution(xi, residual)


class AffineSolver:
    """A full affine map alone: linear regression of -g on (1, x), then the tangent of L U."""

    def __init__(self, flow: Flow, d: int, damping: float):
        self.damping = damping

    def solve(self, problem):
        x, g, weights = problem.x, problem.g, problem.weights
        columns = torch.cat([torch.ones_like(x[:, :1]), x], 1)
        weighted = columns * weights[:, None]
        coefficients = damped_solve(columns.T @ weighted, -weighted.T @ g, self.damping)
        xi = problem.linearization.tangent(coefficients[0], coefficients[1:].T)
        return Solution(xi, columns @ coefficients + g)


class DirectSolver:
    """One Cholesky factorisation of the explicit metric Ghat (m, m)."""

    def __init__(self, flow: Flow, d: int, damping: float):
        self.damping = damping

    def solve(self, problem):
        g, weights = problem.g, problem.weights
        jacobian = problem.linearization.jacobian()[0].flatten(0, 1)
        weighted = jacobian * weights.repeat_interleave(g.shape[1])[:, None]
        xi = damped_solve(jacobian.T @ weighted, -(weighted.T @ g.reshape(-1, 1)), self.damping)
        return Solution(xi[:, 0], (jacobian @ xi).view_as(g) + g)


class ConjugateGradientSolver:
    """Matrix-free, preconditioned by the factorised metric of an earlier theta on fewer points.

    The factor is kept while it serves: ``stale`` becomes true when a solve needed twice the
    iterations of the first one with it.
    """

    def __init__(
        self,
        flow: Flow,
        d: int,
        damping: float,
        tolerance: float = 1e-3,
        max_iterations: int = 200,
        oversampling: float = 4.0,
        block_size: int = 256,
    ):
        self.damping, self.tolerance = damping, tolerance
        self.max_iterations, self.block_size = max_iterations, block_size
        self.n_points = int(oversampling * flow.n_parameters(d) / d) + 1
        self.factor = self.guess = self.patience = None
        self.shift = 0.0

    @property
    def stale(self) -> bool:
        """Whether it is time for new points and a new factor."""
        return self.factor is None

    def renew(self, problem: InnerProblem) -> None:
        """Factorise the metric at this theta; its products in float32, which a factor can stand."""
        points, gram = problem.x[: self.n_points], 0.0
        for x in points.float().split(self.block_size):
            jacobian = problem.flow.linearize(problem.theta.float(), x).jacobian()[0].flatten(0, 1)
            gram = gram + jacobian.T @ jacobian
        gram = gram.to(problem.theta) / len(points)
        mean = gram.diagonal().mean()
        self.shift = self.damping * mean
        shift = max(self.damping, 1e-6) * mean
        factor, info = torch.linalg.cholesky_ex(gram + shift * torch.eye(len(gram)).to(gram))
        self.factor = factor if not info else torch.eye(len(gram)).to(gram)
        self.patience = None

    def solve(self, problem):
        linearization, g, weights = problem.linearization, problem.g, problem.weights
        if self.factor is None:
            self.renew(problem)

        def metric(v):
            pushed = linearization.jvp(v) * weights[:, None]
            return linearization.vjp(pushed)[0] + self.shift * v

        rhs = -linearization.vjp(g * weights[:, None])[0]
        if not torch.isfinite(rhs).all():
            return Solution(torch.full_like(rhs, torch.nan), g)
        xi, iterations = self._conjugate_gradients(metric, rhs)
        if self.patience is None:
            self.patience = 2 * iterations + 4
        elif iterations > self.patience:
            self.factor = None
        self.guess = xi
        return Solution(xi, linearization.jvp(xi) + g, iterations)

    def _conjugate_gradients(self, metric, rhs):
        def precondition(r):
            return torch.cholesky_solve(r[:, None], self.factor)[:, 0]

        xi = torch.zeros_like(rhs) if self.guess is None else self.guess
        r = rhs - metric(xi) if self.guess is not None else rhs
        z = precondition(r)
        target = self.tolerance**2 * (rhs @ precondition(rhs))
        p, rz, iterations = z, r @ z, 0
        while rz > target and iterations <= self.max_iterations:
            q = metric(p)
            alpha = rz / (p @ q)
            xi, r = xi + alpha * p, r - alpha * q
            z = precondition(r)
            rz, before = r @ z, rz
            p = z + rz / before * p
            iterations += 1
        return xi, iterations


def damped_solve(gram: Tensor, rhs: Tensor, damping: float) -> Tensor:
    """Solve (G + damping * mean diagonal * I) xi = rhs, batched."""
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    shift = damping * diagonal.mean(-1, keepdim=True) + torch.finfo(gram.dtype).tiny
    factor, info = torch.linalg.cholesky_ex(gram + torch.diag_embed(shift.expand_as(diagonal)))
    if info.any():
        return torch.full_like(rhs, torch.nan)  # the step is refused and tried shorter
    return torch.cholesky_solve(rhs, factor)
