r"""The paper's metric G of (27) in closed form: tangents projected on gradient fields.

:math:`\nabla\psi_j` of (15) is the projection of :math:`\partial_{\theta_j} T` on the gradients of
a span of features: with :math:`A = E[\nabla\phi \nabla\phi^T]` and
:math:`b = E[\nabla\phi \cdot \partial_\theta T]`, the metric (14) is :math:`G = b^T A^{-1} b`.
"""

from __future__ import annotations

import numbers

import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from ..flows.base import Flow
from .dual_features import DualFeatures
from .normal_equations import InnerProblem, Solution, damped_solve


class ProjectedMetric(BaseEstimator):
    r"""G of (27) over a feature basis, with some of the relaxed metric blended in.

    .. math:: G_\epsilon = (1 - \epsilon)\, b^T A^{-1} b + \epsilon \hat G, \qquad
       \hat G = E[\partial_\theta T^T \, \partial_\theta T] \ge G

    Motions that only stir the samples (a rotation of a round Gaussian) have length zero in G, and
    so has, in a span that is too small, any motion orthogonal to it: theta would run along them
    at no cost. ``blend`` gives them a length.

    The force :math:`\nabla V + \beta \nabla\log\rho_\theta` is a gradient field that is known
    pointwise, and always belongs to the span: the right-hand side
    :math:`E[\partial_\theta T^T P g]` is then :math:`\nabla_\theta H` itself whatever the
    features are, and H decreases along the march.

    Parameters
    ----------
    features : DualFeatures or None, default=None
        None for ``DualFeatures()``.
    blend : float, default=0.05
        epsilon, in [0, 1]; 1 is the relaxed metric.
    """

    def __init__(self, features: DualFeatures | None = None, blend: float = 0.05):
        self.features = features
        self.blend = blend

    def at(self, problem: InnerProblem) -> Projection:
        """The projection at one theta, on the points of its inner problem."""
        features = DualFeatures() if self.features is None else self.features
        gradients = features.gradients(problem.linearization.y, problem.weights)
        return Projection(gradients, problem.g, problem.weights, float(self.blend))

    def validate(self) -> None:
        """Raise a ValueError that says which parameter is wrong, and what would do."""
        if not isinstance(self.blend, numbers.Real) or not 0 <= self.blend <= 1:
            raise ValueError(
                f"blend must be a number in [0, 1], got {self.blend!r}; try blend=0.05."
            )
        if self.features is not None:
            self.features.validate()


def as_metric(metric) -> ProjectedMetric | None:
    """The metric meant by the parameter of a scheme; None stands for the relaxed one.

    Raises
    ------
    ValueError
        Where it is none.
    """
    if isinstance(metric, str) and metric == "relaxed":
        return None
    if isinstance(metric, str) and metric == "projected":
        return ProjectedMetric()
    if isinstance(metric, ProjectedMetric):
        metric.validate()
        return metric
    raise ValueError(
        f'metric must be "relaxed", "projected" or a ProjectedMetric, got {metric!r}; try '
        'metric="relaxed".'
    )


class Projection:
    r"""M = (1 - eps) P + eps, P the L2 projection of fields (n, d) on the span of gradients.

    Parameters
    ----------
    gradients : Tensor (n, d, K)
        Of the features.
    force : Tensor (n, d)
        One more gradient field that belongs to the span.
    weights : Tensor (n,)
    blend : float
        eps.
    """

    def __init__(self, gradients: Tensor, force: Tensor, weights: Tensor, blend: float):
        n, d, k = gradients.shape
        self.blend = blend
        self.root = weights.sqrt().repeat_interleave(d)[:, None]  # (n d, 1)
        basis = gradients.reshape(n * d, k) * self.root
        basis = basis / basis.norm(dim=0).clamp_min(torch.finfo(basis.dtype).tiny)
        # features that nearly depend on each other are damped: P stays below a projection
        gram = basis.T @ basis
        factor = torch.linalg.cholesky(gram + 1e-10 * torch.eye(k).to(gram))
        self.basis = torch.linalg.solve_triangular(factor, basis.T, upper=False)  # (K, n d)
        rest = force.reshape(-1, 1) * self.root
        size = rest.norm()
        for _ in range(2):  # once more for what rounding left
            rest = rest - self.basis.T @ (self.basis @ rest)
        if rest.norm() > 1e-8 * size:
            self.basis = torch.cat([self.basis, (rest / rest.norm()).T])

    def coordinates(self, rows: Tensor) -> Tensor:
        """Of fields (n d, m), columns, in an orthonormal basis of the span: (K, m)."""
        return self.basis @ (rows * self.root)

    def apply(self, field: Tensor) -> Tensor:
        """M v for v (n, d)."""
        projected = self.basis.T @ self.coordinates(field.reshape(-1, 1)) / self.root
        return (1 - self.blend) * projected.view_as(field) + self.blend * field

    def project(self, field: Tensor) -> Tensor:
        """P v for v (n, d)."""
        return (self.basis.T @ self.coordinates(field.reshape(-1, 1)) / self.root).view_as(field)


class ProjectedSolver:
    r"""min over xi of (1 - eps) E|P(dT/dtheta xi + g)|^2 + eps E|dT/dtheta xi + g|^2.

    Where the tangent space holds -g both terms vanish together: any sample set gives the exact
    answer, as with the relaxed metric. One factorisation of A (K, K) and one of the metric (m, m).
    """

    def __init__(self, flow: Flow, d: int, damping: float, metric: ProjectedMetric | None = None):
        self.damping = damping
        self.metric = ProjectedMetric() if metric is None else metric

    def solve(self, problem: InnerProblem) -> Solution:
        g, eps = problem.g, self.metric.blend
        if not torch.isfinite(g).all():  # the step is refused and tried shorter
            return Solution(torch.full_like(problem.theta, torch.nan), g)
        projection = self.metric.at(problem)
        jacobian = problem.linearization.law_jacobian().flatten(0, 1)
        rows = projection.coordinates(jacobian)
        target = projection.coordinates(g.reshape(-1, 1))
        gram, rhs = (1 - eps) * rows.T @ rows, (1 - eps) * rows.T @ target
        if eps:
            weighted = jacobian * projection.root.square()
            gram = gram + eps * jacobian.T @ weighted
            rhs = rhs + eps * weighted.T @ g.reshape(-1, 1)
        xi = damped_solve(gram, -rhs, self.damping)[:, 0]
        return Solution(xi, (jacobian @ xi).view_as(g) + g)
