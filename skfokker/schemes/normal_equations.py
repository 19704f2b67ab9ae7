"""The inner problem in closed form: min over xi of E |dT/dtheta xi + g|^2 (equation (28)).

Where the flow gives its law a velocity of its own, that stands in the place of dT/dtheta xi.

Three ways to the same damped normal equations (Ghat + damping) xi = -E[dT/dtheta^T g]: small
blocks where the map is separable, one factorisation where m is small, and preconditioned
conjugate gradients otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..equation import FokkerPlanck, log_normal
from ..flows.base import Flow, Linearization
from ..parallel import ALONE, Reduction
from .pieces import Pieces

MAX_NUMBERS = 2**27  # of one array of derivatives: 1 GiB of float64


class InnerProblem:
    """min over xi of E_p |dT/dtheta(X) xi + g(T(X))|^2 at one theta, on weighted points.

    Parameters
    ----------
    equation, flow, theta
        What is solved, T and its parameters (m,).
    x, weights : Tensor (n, d), (n,)
        Reference points and quadrature weights (they sum to one).
    reduction : Reduction
        The processes that share the points.
    max_numbers : int
        Largest array of derivatives to hold; more points than fit are worked on in blocks.

    Attributes
    ----------
    x, weights : Tensor (n, d), (n,)
        Those of this process.
    linearization : Linearization
    g : Tensor (n, d)
        grad V + beta grad log rho at T(x), the score carried forward pointwise.
    """

    def __init__(
        self,
        equation: FokkerPlanck,
        flow: Flow,
        theta: Tensor,
        x: Tensor,
        weights: Tensor,
        reduction: Reduction = ALONE,
        max_numbers: int = MAX_NUMBERS,
    ):
        self.flow, self.theta = flow, theta
        self.reduction, self.max_numbers = reduction, max_numbers
        self.all_x, self.x, self.weights = x, reduction.share(x), reduction.share(weights)
        self.shares = reduction.shares(len(x))
        with reduction.together():
            fit = len(self.x) <= self.rows(x.shape[1] + len(theta))
            if fit and len(self.shares) == 1:
                self.linearization = flow.linearize(theta, self.x)
            else:
                rows = self._blocks(x.shape[1] + len(theta))
                self.linearization = Pieces(flow, theta, self.x, rows, keep=fit)
            score, y = self.linearization.push_score(-self.x), self.linearization.y
            log_density = log_normal(self.x) - self.linearization.log_det
            forces = [
                equation.driving_force(y[rows], score[rows], log_density[rows])
                for rows in self.shares
            ]
            self.g = torch.cat(forces) if len(forces) > 1 else forces[0]

    def rows(self, numbers: int) -> int:
        """Points to work on at a time where each takes so many numbers."""
        return max(1, self.max_numbers // max(numbers, 1))

    def _blocks(self, numbers: int) -> list[slice]:
        """The shares, cut into blocks of points so few that ``numbers`` for each fit."""
        step = self.rows(numbers)
        return [
            slice(start, min(start + step, share.stop))
            for share in self.shares
            for start in range(share.start, share.stop, step)
        ]

    def sum(self, term: Callable[[slice, Linearization], tuple], numbers: int | None = None):
        """Sum of ``term(rows, linearization)``, a tuple of tensors, over blocks and processes.

        ``numbers`` is what the term needs for a point, where that is more than the linearization
        itself. Shares are added in pairs, and pairs of pairs: the same bits whatever number of
        processes they are spread over.
        """
        pieces = self.linearization
        if numbers is not None and len(self.x) > self.rows(numbers):
            pieces = Pieces(self.flow, self.theta, self.x, self._blocks(numbers), keep=False)
        if not isinstance(pieces, Pieces):
            return self.reduction.sum(*term(slice(None), pieces))
        return self.reduction.sum(*in_pairs(self._by_share(pieces, term)))

    def _by_share(self, pieces: Pieces, term: Callable) -> Iterator[tuple]:
        """The terms of a share's blocks summed, share by share."""
        shares, total = iter(self.shares), ()
        share = next(shares)
        for rows, linearization in pieces.blocks():
            if rows.start >= share.stop:
                yield total
                share, total = next(shares), ()
            terms = term(rows, linearization)
            total = _add(total, terms) if total else terms
        yield total

    def mean(self, values: Tensor) -> float:
        """E of values (n,)."""
        parts = [(values[rows] @ self.weights[rows],) for rows in self.shares]
        return float(self.reduction.sum(*in_pairs(parts)))

    def mean_square(self, v: Tensor) -> float:
        """E |v|^2 for v (n, d)."""
        return self.mean(v.square().sum(1))

    def displacement(self, dtheta: Tensor) -> float:
        """Root mean square of dT/dtheta dtheta: the size of dtheta in the space of samples."""
        return self.mean_square(self.linearization.law_velocity(dtheta)) ** 0.5

    def spread(self) -> float:
        """Root mean square distance of the samples T(x) from their mean."""
        y, weights = self.linearization.y, self.weights
        parts = [(weights[rows] @ y[rows],) for rows in self.shares]
        return self.mean_square(y - self.reduction.sum(*in_pairs(parts))) ** 0.5

    def metric(self, v: Tensor) -> Tensor:
        """Ghat v (m,)."""

        def term(rows, linearization):
            field = linearization.law_velocity(v) * self.weights[rows, None]
            return (linearization.law_pull_back(field),)

        return self.sum(term)

    def slope(self) -> Tensor:
        """E[dT/dtheta^T g] (m,)."""

        def term(rows, linearization):
            return (linearization.law_pull_back(self.g[rows] * self.weights[rows, None]),)

        return self.sum(term)


@dataclass(frozen=True)
class Solution:
    """Parameter velocity xi (m,), its sample-space residual dT/dtheta xi + g, CG iterations."""

    xi: Tensor
    residual: Tensor
    iterations: int = 0


class CoordinateSolver:
    """Separable maps: d systems of p unknowns, factorised together."""

    over_processes = True  # the points may be shared: all sums go through the problem

    def __init__(self, flow: Flow, d: int, damping: float):
        self.index, self.damping = flow.coordinate_index(d), damping

    def solve(self, problem: InnerProblem) -> Solution:
        g, weights = problem.g, problem.weights

        def moments(rows, linearization):
            here = weights[rows, None].expand_as(g[rows])
            return linearization.coordinate_moments(here, g[rows][..., None])

        gram, right = problem.sum(moments)
        xi_by_coordinate = damped_solve(gram, -right, self.damping)
        xi = g.new_zeros(self.index.numel())
        xi[self.index.to(g.device)] = xi_by_coordinate[:, :, 0]
        xi = problem.reduction.same(xi)
        return Solution(xi, problem.linearization.law_velocity(xi) + g)


class AffineSolver:
    """A full affine map alone: linear regression of -g on (1, x), then the tangent of L U."""

    over_processes = True

    def __init__(self, flow: Flow, d: int, damping: float):
        self.damping = damping

    def solve(self, problem):
        x, g, weights = problem.x, problem.g, problem.weights
        columns = torch.cat([torch.ones_like(x[:, :1]), x], 1)

        def regression(rows, _):
            weighted = columns[rows] * weights[rows, None]
            return columns[rows].T @ weighted, weighted.T @ g[rows]

        gram, right = problem.sum(regression)
        coefficients = problem.reduction.same(damped_solve(gram, -right, self.damping))
        xi = problem.linearization.tangent(coefficients[0], coefficients[1:].T)
        return Solution(xi, columns @ coefficients + g)


class DirectSolver:
    """One Cholesky factorisation of the explicit metric Ghat (m, m)."""

    over_processes = True

    def __init__(self, flow: Flow, d: int, damping: float):
        self.damping = damping

    def solve(self, problem):
        d, m = problem.g.shape[1], len(problem.theta)

        def normal_equations(rows, linearization):
            jacobian = linearization.law_jacobian().flatten(0, 1)
            weighted = jacobian * problem.weights[rows].repeat_interleave(d)[:, None]
            return jacobian.T @ weighted, weighted.T @ problem.g[rows].reshape(-1, 1)

        gram, right = problem.sum(normal_equations, d * m)
        xi = problem.reduction.same(damped_solve(gram, -right, self.damping)[:, 0])
        return Solution(xi, problem.linearization.law_velocity(xi) + problem.g)


class ConjugateGradientSolver:
    """Matrix-free, preconditioned by the factorised metric of an earlier theta on fewer points.

    The factor is kept while it serves: ``stale`` becomes true when a solve needed twice the
    iterations of the first one with it.
    """

    over_processes = True

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
        self.factor: list[Tensor] | None = None
        self.guess = self.patience = None
        self.shift = 0.0

    @property
    def stale(self) -> bool:
        """Whether it is time for new points and a new factor."""
        return self.factor is None

    def renew(self, problem: InnerProblem) -> None:
        """Factorise the metric at this theta; its products in float32, which a factor can stand.

        Where the whole metric would be larger than ``max_numbers``, only its blocks on the
        diagonal are taken.
        """
        reduction, m = problem.reduction, len(problem.theta)
        points, theta = problem.all_x[: self.n_points].float(), problem.theta.float()
        block = m if m * m <= problem.max_numbers else max(64, problem.max_numbers // (2 * m))
        sizes = [min(block, m - start) for start in range(0, m, block)]
        blocks = points.split(min(self.block_size, problem.rows(4 * points.shape[1] * m)))

        def share(blocks) -> tuple[Tensor, ...]:
            grams = tuple(problem.theta.new_zeros(size, size) for size in sizes)
            for x in blocks:
                jacobian = problem.flow.linearize(theta, x).law_jacobian().flatten(0, 1)
                for gram, columns in zip(grams, jacobian.split(block, 1), strict=True):
                    gram += columns.T @ columns
            return grams

        n_shares = len(problem.shares) * reduction.size
        first = reduction.rank * len(problem.shares)
        mine = (share(blocks[first + k :: n_shares]) for k in range(len(problem.shares)))
        grams = [reduction.sum(gram).div_(len(points)) for gram in in_pairs(mine)]
        mean = sum(gram.trace() for gram in grams) / m
        self.shift = self.damping * mean
        self.factor = [_factor(gram, max(self.damping, 1e-6) * mean) for gram in grams]
        self.patience = None

    def solve(self, problem):
        g = problem.g
        if self.factor is None:
            self.renew(problem)

        def metric(v):
            return problem.metric(v) + self.shift * v

        rhs = -problem.slope()
        if not torch.isfinite(rhs).all():
            return Solution(torch.full_like(rhs, torch.nan), g)
        xi, iterations = self._conjugate_gradients(metric, rhs)
        if self.patience is None:
            self.patience = 2 * iterations + 4
        elif iterations > self.patience:
            self.factor = None
        self.guess = xi = problem.reduction.same(xi)
        return Solution(xi, problem.linearization.law_velocity(xi) + g, iterations)

    def _conjugate_gradients(self, metric, rhs):
        def precondition(r):
            parts = r[:, None].split([len(factor) for factor in self.factor])
            pairs = zip(parts, self.factor, strict=True)
            return torch.cat([torch.cholesky_solve(part, factor) for part, factor in pairs])[:, 0]

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


def in_pairs(terms: Iterable[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Sum of tuples: neighbours first, then pairs of pairs, with few of them held at a time."""
    stack: list[tuple[int, tuple]] = []
    for new in terms:
        height = 0
        while stack and stack[-1][0] == height:
            new = _add(stack.pop()[1], new)
            height += 1
        stack.append((height, new))
    total = stack.pop()[1]
    while stack:
        total = _add(stack.pop()[1], total)
    return total


def _add(one: tuple, other: tuple) -> tuple:
    return tuple(a + b for a, b in zip(one, other, strict=True))


def _factor(gram: Tensor, shift: Tensor) -> Tensor:
    """Cholesky factor of G + shift I, or the identity where there is none; G is overwritten."""
    gram.diagonal().add_(shift)
    factor, info = torch.linalg.cholesky_ex(gram)
    return torch.eye(len(gram), dtype=gram.dtype, device=gram.device) if info else factor


def damped_solve(gram: Tensor, rhs: Tensor, damping: float) -> Tensor:
    """Solve (G + damping * mean diagonal * I) xi = rhs, batched."""
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    shift = damping * diagonal.mean(-1, keepdim=True) + torch.finfo(gram.dtype).tiny
    factor, info = torch.linalg.cholesky_ex(gram + torch.diag_embed(shift.expand_as(diagonal)))
    if info.any():
        return torch.full_like(rhs, torch.nan)  # the step is refused and tried shorter
    return torch.cholesky_solve(rhs, factor)
