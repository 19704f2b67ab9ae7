"""The inner problem of a mixture of Gaussians, from moments of a small regression."""

from __future__ import annotations

import torch

from ..flows.mixture_fields import Network
from .normal_equations import InnerProblem, Solution


class MixtureSolver:
    """Normal equations of :class:`~skfokker.flows.MixtureFlow` in closed form.

    With r_k the share of component k, its velocity r_k (a_k + B_k (y - m_k)) is linear in the
    regressors r_k and r_k (y - m_k), the same for all d output coordinates: one Gram matrix of
    K (d + 1) regressors holds all of the metric but the columns of the weights. Symmetric B_k tie
    the coordinates together.

    Parameters
    ----------
    flow : MixtureFlow
    d : int
    damping : float
        Cost of moving each component on its own, sum_k c_k E_k|a_k + B_k (y - m_k)|^2 with
        c_k = damping * w_k and more (see noise). Components that overlap could otherwise move
        wildly and undo each other's motion.
    weight_damping : float
        Cost of the exchange of weight, s^2 * sum_k c_k (w_k' / w_k)^2 with s the spread of the
        mixture and c_k = weight_damping * w_k and more: a component that others can stand in for
        would otherwise run empty in finite time.
    noise : float
        Adds noise * (d + 1) / n to every c_k: what n points say of a component that few of them see
        is mostly noise. Without it such components wander off, and come back with all the weight.
    """

    stale, over_processes = False, True

    def __init__(
        self,
        flow,
        d: int,
        damping: float = 1e-4,
        weight_damping: float = 1e-4,
        noise: float = 0.01,
    ):
        self.damping, self.weight_damping, self.noise = damping, weight_damping, noise
        k = flow.n_components
        # unknown q of a component adds regressor first[q] to coordinate i[q], and for an
        # off-diagonal entry of B also regressor second[q] to coordinate j[q]
        row, column = torch.tril_indices(d, d)
        means = torch.arange(d)
        first = torch.cat([torch.zeros_like(means), 1 + column])
        second = torch.cat([torch.zeros_like(means), 1 + row])
        i, j = torch.cat([means, row]), torch.cat([means, column])
        twice = torch.cat([torch.zeros(d), (row != column).double()])
        component = torch.arange(k)[:, None] * (d + 1)
        self.first, self.second = (component + first).flatten(), (component + second).flatten()
        self.i, self.j, self.twice = i.repeat(k), j.repeat(k), twice.double().repeat(k)
        self.entries = self._entries(k * (d + 1))

    def solve(self, problem: InnerProblem) -> Solution:
        d = problem.g.shape[1]

        def moments(rows, here):
            ones = torch.ones_like(here.shares)[..., None]
            regressors = here.shares[..., None] * torch.cat([ones, here.centred], 2)
            regressors = regressors.flatten(1)
            weighted = regressors * problem.weights[rows, None]
            fields = here.exchange.by_potential if len(here.weights) > 1 else None
            gram, right = weighted.T @ regressors, weighted.T @ problem.g[rows]
            if fields is None:
                return gram, right
            heavy = fields * problem.weights[rows, None, None]
            cross = (weighted.T @ fields.flatten(1)).view(len(gram), d, -1)
            heavy, fields = heavy.flatten(0, 1), fields.flatten(0, 1)
            return gram, right, cross, heavy.T @ fields, heavy.T @ problem.g[rows].reshape(-1)

        sums = problem.sum(moments)
        mixture = problem.flow.mixture(problem.theta, d)
        network = Network(mixture) if len(sums) > 2 else None
        first, second, i, j, twice = (
            a.to(problem.g.device) for a in (self.first, self.second, self.i, self.j, self.twice)
        )
        noise = self.noise * (d + 1) / len(problem.all_x)
        gram = sums[0] + self._alone(mixture, noise)
        matrix = self._gram(gram)
        right = self._rows(sums[1], first, second, i, j, twice)
        if len(sums) > 2:
            cross = self._rows(sums[2], first, second, i, j, twice[:, None])
            exchange = sums[3] + problem.spread() ** 2 * self._emptying(mixture, network, noise)
            matrix = torch.cat([torch.cat([matrix, cross], 1), torch.cat([cross.T, exchange], 1)])
            right = torch.cat([right, sums[4]])
        solution = _solve_scaled(matrix, -right)
        xi = problem.reduction.same(self._tangent(problem.flow, mixture, network, solution))
        return Solution(xi, problem.linearization.law_velocity(xi) + problem.g)

    def _alone(self, mixture, noise):
        """Moments of the regressors if every component had its points to itself, times c_k."""
        blocks = torch.nn.functional.pad(mixture.covariances, (1, 0, 1, 0))
        blocks[:, 0, 0] = 1.0
        cost = self.damping * mixture.weights + noise
        return torch.block_diag(*(cost[:, None, None] * blocks))

    def _emptying(self, mixture, network, noise):
        """Quadratic form (K, K) in the potentials of the cost of exchange, for a unit spread."""
        cost = (self.weight_damping * mixture.weights + noise) / mixture.weights.square()
        return network.laplacian @ (cost[:, None] * network.laplacian)

    def _entries(self, n_regressors: int):
        """Which entry of the metric of the unknowns has which of the regressors in it, how often.

        Two regressors meet where they are of the same coordinate.
        """
        once = torch.ones_like(self.twice)
        terms = ((self.first, self.i, once), (self.second, self.j, self.twice))
        targets, sources, factors = [], [], []
        for a, p, f in terms:
            for b, q, g in terms:
                row, column = torch.nonzero(p[:, None] == q, as_tuple=True)
                factor = f[row] * g[column]
                use = factor != 0
                row, column = row[use], column[use]
                targets.append(row * len(self.i) + column)
                sources.append(a[row] * n_regressors + b[column])
                factors.append(factor[use])
        return torch.cat(targets), torch.cat(sources), torch.cat(factors)

    def _gram(self, of_regressors):
        """The metric of the unknowns, from that of the regressors."""
        target, source, factor = (a.to(of_regressors.device) for a in self.entries)
        n = len(self.i)
        matrix = of_regressors.new_zeros(n * n)
        return matrix.index_add_(0, target, factor * of_regressors.flatten()[source]).view(n, n)

    @staticmethod
    def _rows(by_regressor, first, second, i, j, twice):
        return by_regressor[first, i] + twice * by_regressor[second, j]

    @staticmethod
    def _tangent(flow, mixture, network, solution):
        """theta' from means, symmetric generators and potentials of the exchange."""
        k, d = mixture.means.shape
        per_component = d + d * (d + 1) // 2
        here = solution[: k * per_component].view(k, per_component)
        row, column = torch.tril_indices(d, d, device=here.device)
        generator = here.new_zeros(k, d, d)
        generator[:, row, column] = generator[:, column, row] = here[:, d:]
        # L' = L lower(L^-1 C' L^-T), lower() with half of the diagonal
        turned = mixture.whitener @ generator @ mixture.root
        inner = turned + turned.mT
        half = inner.tril(-1) + torch.diag_embed(inner.diagonal(dim1=1, dim2=2) / 2)
        droot = mixture.root @ half
        diagonal = droot.diagonal(dim1=1, dim2=2) / mixture.diagonal
        dlogits = here.new_zeros(k)
        if network is not None:
            dweights = network.laplacian @ solution[k * per_component :]
            dlogits = dweights / mixture.weights
            dlogits = dlogits - dlogits.mean()
        return flow.pack(dlogits, here[:, :d], droot.tril(-1) + torch.diag_embed(diagonal))


def _solve_scaled(matrix, right):
    """A x = b with each unknown in its own scale."""
    scale = matrix.diagonal().clamp(min=torch.finfo(matrix.dtype).tiny).rsqrt()
    scaled = scale[:, None] * matrix * scale
    factor, info = torch.linalg.cholesky_ex(scaled + 1e-12 * torch.eye(len(scaled)).to(scaled))
    if info:
        return torch.full_like(right, torch.nan)  # the step is refused and tried shorter
    return scale * torch.cholesky_solve((scale * right)[:, None], factor)[:, 0]
