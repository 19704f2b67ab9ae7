"""Blocks of one or two coordinates: expectations by quadrature, V asked once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..equation import FokkerPlanck
from ..flows.conditional import ConditionalFlow
from ..potentials import PotentialError
from .score_blocks import Block, BlockState, Diverged


def kron_sum(left: Tensor, right: Tensor, inner: Tensor) -> Tensor:
    """sum_p left_pa right_pa' inner_pbb' as a matrix over pairs (a, b), (a', b')."""
    p, a, b = len(left), left.shape[1], inner.shape[1]
    outer = (left[:, :, None] * right[:, None, :]).reshape(p, -1)
    total = (outer.T @ inner.reshape(p, -1)).view(a, a, b, b)
    return total.permute(0, 2, 1, 3).reshape(a * b, a * b)


class QuadratureBlock(Block):
    """One or two coordinates, their expectations by Gauss-Legendre quadrature on fixed nodes.

    Parameters
    ----------
    flow, indices, equation, centre, damping
        As for :class:`~.score_blocks.Block`; a damping of None is 1e-5.
    refinement : int
        Into so many cells each cell of the flow is cut.
    """

    largest = 2
    tolerance = 1e-2

    def __init__(
        self,
        flow: ConditionalFlow,
        indices,
        equation: FokkerPlanck,
        centre: Tensor,
        damping: float | None = None,
        refinement: int = 1,
    ):
        super().__init__(flow, indices, equation, centre, 1e-5 if damping is None else damping)
        if refinement > 1:
            self.factors = [factor.refined(refinement) for factor in self.factors]
        grid = self._grid()
        self.shape = grid.shape[:-1]
        self._nodes = self.nodes()
        self.ask()
        self.products = []
        for k, factor in enumerate(self.factors):
            prefix = grid.new_zeros(math.prod(self.shape[:k]), factor.index)
            for j in range(k):
                index = [slice(None)] * k + [0] * (len(self.shape) - k) + [j]
                prefix[:, self.indices[j]] = grid[tuple(index)].flatten()
            self.products.append(factor.products(prefix))
        self.derivatives = [
            {j: products.derivative(j) for j in factor.parents}
            for products, factor in zip(self.products, self.factors, strict=True)
        ]
        self.weights = [factor.cells.weights.to(centre) for factor in self.factors]

    def _grid(self) -> Tensor:
        """The nodes in the coordinates of the block (N_1, ..., N_b, b)."""
        axes = [factor.cells.nodes.to(self.centre) for factor in self.factors]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)

    def nodes(self) -> Tensor:
        """The points at which V is asked (n, d)."""
        grid = self._grid().flatten(0, -2)
        points = self.centre.repeat(len(grid), 1)
        points[:, self.columns] = grid
        return points

    def ask(self) -> None:
        """V, the pull and D at the nodes; where they are not finite there may be no mass."""
        points = self._nodes
        value, gradient = self.equation.at_nodes(points)
        finite = torch.isfinite(value) & torch.isfinite(gradient).all(1)
        self.lost = (~finite).view(self.shape)
        self.example = points[~finite][:1]
        gradient = torch.where(finite[:, None], gradient, 0.0)
        self.value = torch.where(finite, value, value[finite].max()).view(self.shape)
        self.gradient = [gradient[:, c].view(self.shape) for c in self.columns]
        self._ask_along()

    def _ask_along(self, log_density: Tensor | None = None) -> None:
        points = self._nodes
        along = torch.as_tensor(self.equation.spread_along(points, log_density)).to(points)
        along = torch.nan_to_num(along.expand_as(points))
        self.along = [along[:, c].view(self.shape) for c in self.columns]

    def points(self, thetas: list[Tensor]):
        """For every factor its values at the nodes, and the joint weights (N_1, ..., N_b).

        Raises
        ------
        Diverged
            Where the weights do not add up to one: the nodes do not hold the law.
        PotentialError
            Where V is not finite where the law has mass.
        """
        states, weights = [], torch.ones(()).to(thetas[0])
        for factor, theta, products, w in zip(
            self.factors, thetas, self.products, self.weights, strict=True
        ):
            at = factor.local(theta, products).at_nodes()
            mass = at.log_density.exp() * w
            weights = weights.reshape(-1, 1) * mass
            states.append(at)
        weights = weights.view(self.shape)
        if not abs(float(weights.sum()) - 1) < 5e-3:
            raise Diverged  # the law has left the box, or is too narrow for the nodes
        if self.lost.any() and float(weights[self.lost].sum()) > 1e-9:
            self.equation.pull(self.example)  # which says where and when
            raise PotentialError("the potential is not finite where the solution has mass")
        return states, weights

    def scores(self, states) -> list[Tensor]:
        """grad log rho, one array (N_1, ..., N_b) a coordinate."""
        out = [torch.zeros_like(self.value) for _ in states]
        for k, (at, derivatives) in enumerate(zip(states, self.derivatives, strict=True)):
            out[k] = out[k] + self._spread(at.score, k)
            for j, table in derivatives.items():
                change = table @ at.local.table
                by = torch.matmul(at.phi, change[:, :, None])[..., 0]
                position = self.indices.index(j)
                out[position] = out[position] + self._spread(by, k)
        return out

    def driving(self, scores: list[Tensor], log_density: Tensor | None = None) -> list[Tensor]:
        """g at the nodes, one array a coordinate, from the scores."""
        if self.equation.diagonal:
            parts = zip(self.gradient, self.along, scores, strict=True)
            return [pull + along * s for pull, along, s in parts]
        points = self._nodes
        spread = torch.zeros_like(points)
        spread[:, self.columns] = torch.stack([s.expand(self.shape).flatten() for s in scores], 1)
        spread = self.equation.spread(points, spread, log_density)
        return [
            pull + spread[:, c].view(self.shape)
            for pull, c in zip(self.gradient, self.columns, strict=True)
        ]

    def log_density(self, states) -> Tensor:
        """log rho (N_1, ..., N_b)."""
        parts = [self._spread(at.log_density, k) for k, at in enumerate(states)]
        return sum(parts, torch.zeros(()))

    def _spread(self, values: Tensor, k: int) -> Tensor:
        """What factor k has at its nodes, as a function of all coordinates of the block."""
        return values.reshape(*self.shape[: k + 1], *[1] * (len(self.shape) - k - 1))

    def state(self, thetas: list[Tensor], full: bool = True) -> BlockState:
        if not self.equation.steady:
            self.ask()
        states, weights = self.points(thetas)
        log_density = None
        if self.equation.porous is not None:  # D is where the law is
            log_density = self.log_density(states).expand(self.shape).flatten()
            self._ask_along(log_density)
        driving = self.driving(self.scores(states), log_density)
        energy = self.value
        if self.equation.has_energy:
            energy = energy + self.equation.beta * self.log_density(states)
        out = BlockState(
            driving=float(sum((weights * g.square()).sum() for g in driving)),
            free_energy=float((weights * energy).sum()),
        )
        for k, (at, products, derivatives) in enumerate(
            zip(states, self.products, self.derivatives, strict=True)
        ):
            later = tuple(range(k + 1, len(self.shape)))

            def given(values, later=later, like=at.latent):
                weighted = weights * values
                return (weighted.sum(later) if later else weighted).reshape(like.shape)

            factor, a = at.local.factor, products.values
            w = given(torch.ones_like(weights))
            own = given(driving[k])
            phi, phi_own = at.phi, at.phi_own
            wide = w[:, :, None]
            gram = (wide * phi).mT @ phi
            pull = (own[:, None] @ phi_own)[:, 0]
            right = torch.zeros_like(at.local.table)
            moves = []
            for j, table in derivatives.items():
                psi = at.phi_moved(table @ at.local.table)
                force = given(driving[self.indices.index(j)])
                pull = pull + (force[:, None] @ psi)[:, 0]
                right = right + table.T @ (force[:, None] @ phi)[:, 0]
                moves.append((table, psi))
            out.force.append(-factor.pick(a.T @ pull + right))
            out.metric.append(self._pick(factor, kron_sum(a, a, gram)))
            potential = given(energy)
            out.potential_scores.append(factor.pick(a.T @ (potential[:, None] @ phi)[:, 0]))
            if not full:
                continue
            inner = (given(self.along[k])[:, :, None] * phi_own).mT @ phi_own
            spreads = [given(self.along[self.indices.index(j)])[:, :, None] for j in derivatives]
            for (_, psi), spread in zip(moves, spreads, strict=True):
                inner = inner + (spread * psi).mT @ psi
            stiff = kron_sum(a, a, inner)
            for (table, psi), spread in zip(moves, spreads, strict=True):
                mixed = kron_sum(table, a, (spread * phi).mT @ psi)
                stiff = stiff + kron_sum(table, table, (spread * phi).mT @ phi) + mixed + mixed.T
            out.stiffness.append(self._pick(factor, stiff))
        out.rate = self.solved(out)
        return out

    @staticmethod
    def _pick(factor, matrix: Tensor) -> Tensor:
        if factor.full:
            return matrix
        active = factor.active.to(matrix.device)
        return matrix[active][:, active]
