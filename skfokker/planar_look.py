r"""What a march of conditional densities in planes misses the equation by, without sampling.

Where every independent block has one or two coordinates, all that a certificate averages is at hand
on a grid, finer than that of the march:

    v_1 = -S_1' / d_1 S_1 ,    v_2 = -(S_2' + d_1 S_2 v_1) / d_2 S_2    (' = d/dt) ,
    r = v + grad V + beta s ,    w = r + (d_2 a + a s_2, -d_1 a - a s_1) ,

v being the velocity of the Knothe map, s the score. rho times the last field is the rotated
gradient of rho a, so that w has the divergence of r against rho for any function a; here a is the
combination of products of splines that makes E|w|^2 smallest on the grid. In a plane nothing else
leaves a law alone, so that w comes as close to a gradient as the splines allow.

Blocks are independent: E|r|^2, E|w|^2 and E|eps| add up.
"""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from .block_tridiagonal import solve_block_tridiagonal
from .divergence import divergence, steps
from .equation import FokkerPlanck
from .flows.bases import CubicSplines
from .parallel import reduction
from .potentials import PotentialError
from .schemes.points import sobol_normal
from .schemes.quadrature_block import QuadratureBlock
from .schemes.score_blocks import Diverged
from .trajectory import Trajectory

_ALL = slice(None)
_REFINEMENT = 2  # cells of the grid for one of the march
_RIDGE = 1e-10  # of the normal equations, relative to each diagonal entry
_NOTHING = 1e-15  # largest density, relative to its maximum, of what is left out of a grid
_MISSING = 1e-6  # mass that the grids may miss
_MISFIT = 1e-6  # |grad V - that of its blocks|, at most, relative to |grad V|
_PROBES = 256  # points at which that is looked at


def planar_look(trajectory: Trajectory, equation: FokkerPlanck) -> PlanarLook | None:
    """Quadratures for the certificate of a march; None where they do not hold all of the law.

    That is where a block has more than two coordinates, where mass lies beyond the grids, or where
    V couples blocks of the flow after all.
    """
    flow = trajectory.flow
    if not flow.marched_by_scores or equation.has_walls:
        return None
    if not (equation.has_energy and equation.steady):  # what is asked once has to stay what it is
        return None
    if max(len(block) for block in flow.blocks()) > QuadratureBlock.largest:
        return None
    try:
        look = PlanarLook(trajectory, equation)
        return look if look.holds() else None
    except PotentialError:  # of a neighbour out of reach
        return None


class PlanarLook:
    """What a march misses the equation by at one time, by quadrature.

    Parameters
    ----------
    trajectory : Trajectory
    equation : FokkerPlanck
    refinement : int
        Cells of the grid for one of the march, along each coordinate.
    """

    tail = None

    def __init__(
        self, trajectory: Trajectory, equation: FokkerPlanck, refinement: int = _REFINEMENT
    ):
        self.trajectory, self.equation = trajectory, equation
        flow, d = trajectory.flow, trajectory.d
        centre = flow.centre(d).to(trajectory.device)
        with reduction().together():  # all points on every process
            self.planes = [
                Plane(QuadratureBlock(flow, indices, equation, centre, refinement=refinement))
                for indices in flow.blocks()
            ]

    def holds(self) -> bool:
        """Whether the grids hold the law at all stored times, and V is a sum over the blocks."""
        trajectory = self.trajectory
        for theta in torch.as_tensor(trajectory.thetas, device=trajectory.device):
            parts = trajectory.flow.split(theta)
            for plane in self.planes:
                if not abs(plane.mass([parts[i] for i in plane.indices]) - 1) < _MISSING:
                    return False
        if len(self.planes) == 1:
            return True
        d, potential = trajectory.d, self.equation.potential
        centre = trajectory.flow.centre(d).to(trajectory.device)
        x = sobol_normal(_PROBES, d, seed=0).to(centre)
        with reduction().together():
            for t in np.quantile(trajectory.times, [0.0, 0.5, 1.0]):
                y = trajectory.sample_from(x, t)
                gradient = potential.value_and_grad(y)[1]
                for plane in self.planes:
                    alone = centre.repeat(len(y), 1)
                    alone[:, plane.columns] = y[:, plane.columns]
                    apart = potential.value_and_grad(alone)[1] - gradient
                    if apart[:, plane.columns].abs().max() > _MISFIT * gradient.abs().max():
                        return False
        return True

    def turning(self, start: float, end: float, length: float) -> None:
        """Nothing to prepare: fields that leave the law alone are fitted at each time."""

    def at(
        self, t: float, turning: Tensor | None = None
    ) -> tuple[float, float, float, float, float, float]:
        """E|r|^2, E|w|^2, E|eps|, E eps at time t; and nan, no part of the law being set apart, and
        nan, no mean field being asked for."""
        trajectory = self.trajectory
        theta, dtheta = (torch.as_tensor(a, device=trajectory.device) for a in trajectory.at(t))
        thetas, rates = trajectory.flow.split(theta), trajectory.flow.split(dtheta)
        total = np.zeros(4)
        for plane in self.planes:
            here = plane.indices
            total += plane.at([thetas[i] for i in here], [rates[i] for i in here])
        r, w, eps, mean = total.tolist()
        return r, w, eps, mean, np.nan, np.nan


class Plane:
    """One block of one or two coordinates.

    Parameters
    ----------
    block : QuadratureBlock
        With the grid, V on it, and the densities.
    bases : sequence of Basis, optional
        Of the two coordinates, for a; by default the own functions of the flow, splines on half
        their intervals.
    """

    def __init__(self, block: QuadratureBlock, bases=None):
        self.block, self.beta = block, block.equation.beta
        self.indices, self.columns = block.indices, block.columns
        self.laplacian = self._laplacian()
        self.bends = [
            {j: products.derivative(j, 2) for j in factor.parents}
            for products, factor in zip(block.products, block.factors, strict=True)
        ]
        self.turns = None
        if len(self.indices) == 2:
            if bases is None:
                bases = [_finer(factor.own) for factor in block.factors]
            nodes = [factor.cells.nodes.to(block.value) for factor in block.factors]
            self.turns = Turns(*bases, *nodes)

    def _laplacian(self) -> Tensor:
        """Of V at the nodes, in the coordinates of the block."""
        block, potential = self.block, self.block.equation.potential
        nodes, groups = block.nodes(), [torch.tensor([c]) for c in self.columns]
        step = torch.ones_like(nodes[0])
        step[self.columns] = steps(nodes[:, self.columns])
        value = divergence(lambda y: potential.unchecked(y)[1], nodes, step, groups)
        return torch.where(torch.isfinite(value), value, 0.0).view(block.shape)

    def mass(self, thetas: list[Tensor]) -> float:
        """Mass of the block's law on the grid; NaN where much of it is elsewhere."""
        try:
            return float(self.block.points(thetas)[1].sum())
        except Diverged:
            return math.nan

    def fields(self, thetas: list[Tensor], rates: list[Tensor], where: slice = _ALL):
        """Weights, r, s (one array a coordinate) and eps on the grid.

        ``where`` are nodes of the first of two coordinates.
        """
        block, beta = self.block, self.beta
        table = block.factors[0].table(rates[0])
        first = self._first(thetas[0])
        moved, grown = (c[0] for c in first.along(block.products[0].values @ table))
        weights = first.log_density[0].exp() * block.weights[0]
        velocity, score = -moved / first.slope[0], first.score[0]
        rate, curvature = grown - first.latent[0] * moved, first.own_curvature()[0]
        gradient, laplacian = block.gradient, self.laplacian
        if len(thetas) == 1:
            velocity, score = [velocity], [score]
        else:
            velocity, score, weights, rate, curvature = (
                a[where, None] for a in (velocity, score, weights, rate, curvature)
            )
            gradient, laplacian = [g[where] for g in gradient], laplacian[where]
            factor, products = block.factors[1], block.products[1].rows(where)
            second = factor.local(thetas[1], products).at_nodes()
            moved, grown = second.along(products.values @ factor.table(rates[1]))
            rate = rate + grown - second.latent * moved
            score, curvature = [score, second.score], curvature + second.own_curvature()
            for j, slopes in block.derivatives[1].items():
                change, bend = (a[where] @ second.local.table for a in (slopes, self.bends[1][j]))
                moved = moved + second.along(change)[0] * velocity
                by, twice = second.curvature(change, bend)
                score[0], curvature = score[0] + by, curvature + twice
            velocity = [velocity, -moved / second.slope]
            weights = weights * second.log_density.exp() * block.weights[1]
        residual = [v + g + beta * s for v, g, s in zip(velocity, gradient, score, strict=True)]
        pull = sum(g * s for g, s in zip(gradient, score, strict=True))
        square = sum(s.square() for s in score)
        eps = rate - (laplacian + pull + beta * (curvature + square))
        return weights, residual, score, eps

    def _first(self, theta: Tensor):
        """The law of the first coordinate at its nodes."""
        return self.block.factors[0].local(theta, self.block.products[0]).at_nodes()

    def at(self, thetas: list[Tensor], rates: list[Tensor]) -> np.ndarray:
        """E|r|^2, E|w|^2, E|eps| and E eps of the block."""
        rows = _ALL if self.turns is None else _held(self._first(thetas[0]).log_density[0].exp())
        weights, residual, score, eps = self.fields(thetas, rates, rows)
        whole = charged = _mean_square(weights, residual)
        if self.turns is not None:
            columns = _held(weights.amax(0))
            weights, *fields = (a[:, columns] for a in (weights, *residual, *score))
            residual, score = fields[:2], fields[2:]
            turn = self.turns.fit(weights, residual, score, rows, columns)
            charged = whole.minimum(
                _mean_square(weights, [r + u for r, u in zip(residual, turn, strict=True)])
            )
            eps = eps[:, columns]
        means = [whole, charged, (weights * eps.abs()).sum(), (weights * eps).sum()]
        return np.array([float(mean) for mean in means])


def _finer(basis):
    """Splines on half the intervals of others."""
    if not isinstance(basis, CubicSplines):
        return basis
    knots = basis.knots
    return CubicSplines(np.sort(np.concatenate([knots, (knots[1:] + knots[:-1]) / 2])))


def _held(density: Tensor) -> slice:
    """From the first to the last node (N,) that holds anything."""
    kept = (density > _NOTHING * density.max()).nonzero()
    return slice(int(kept[0]), int(kept[-1]) + 1)


def _mean_square(weights: Tensor, field: list[Tensor]) -> Tensor:
    return sum(((weights * f.square()).sum() for f in field), torch.zeros(()))


class Turns:
    """The fields (d_2 a + a s_2, -d_1 a - a s_1), a in the products of two sets of functions.

    Parameters
    ----------
    first, second : Basis
    x, y : Tensor (N_1,), (N_2,)
        Nodes of the grid.
    """

    def __init__(self, first, second, x: Tensor, y: Tensor):
        self.first, self.second = _Axis(first, x), _Axis(second, y)

    def __len__(self):
        return self.first.size * self.second.size

    def fit(self, weights, residual, score, rows=_ALL, columns=_ALL) -> list[Tensor]:
        """The field that makes the weighted mean square of itself and the residual smallest.

        ``rows`` and ``columns`` are the part of the grid that the arrays stand for.
        """
        axes = self.first.part(rows), self.second.part(columns)
        return self.field(self._coefficients(weights, residual, score, *axes), score, *axes)

    def _coefficients(self, weights, residual, score, a: _Axis, b: _Axis) -> Tensor:
        """Those of a, (K, L)."""
        (r1, r2), (s1, s2) = residual, score
        pull1, pull2 = weights * s1, weights * s2
        square = pull1 * s1 + pull2 * s2
        # sum over the grid of weights x (fields . fields), pairs of functions by pairs of functions
        right = weights @ b.slopes + pull2 @ b.mixed + square @ b.values
        gram = a.values.T @ right + (a.slopes.T @ weights + a.mixed.T @ pull1) @ b.values
        force = a.f.T @ ((weights * r1) @ b.df + (pull2 * r1 - pull1 * r2) @ b.f)
        force = force - a.df.T @ ((weights * r2) @ b.f)
        return self._solve(gram, -force)

    def _solve(self, gram: Tensor, force: Tensor) -> Tensor:
        """Coefficients (K, L) of the normal equations, from sums over pairs and (K, L)."""
        a, b = self.first, self.second
        size = gram[a.alone][:, b.alone]
        size = size.clamp(min=1e-200).sqrt()  # functions live where there is little mass
        spread = gram.new_zeros(len(gram) + 1, b.size, b.size)  # the last one for no overlap
        spread[:-1, b.i, b.j] = gram
        spread[:-1, b.j, b.i] = gram

        def block(rows: Tensor, columns: Tensor) -> Tensor:
            values = spread[a.number[rows][:, columns]].transpose(1, 2)
            values = values / (size[rows, :, None, None] * size[columns])
            return values.flatten(2).flatten(0, 1)

        runs = a.runs()
        diagonal = [block(run, run) for run in runs]
        beside = [block(*two) for two in pairwise(runs)]
        right = [(force[run] / size[run]).flatten() for run in runs]
        for ridge in (_RIDGE, 1e-6):
            for square in diagonal:
                square.diagonal().add_(ridge)
            solved = solve_block_tridiagonal(diagonal, beside, right)
            if solved is not None:
                return torch.cat(solved).view_as(force) / size
        return torch.zeros_like(force)

    def field(self, coefficients: Tensor, score: list[Tensor], a=None, b=None) -> list[Tensor]:
        """The field of a at the nodes."""
        a, b = a or self.first, b or self.second
        along = a.f @ coefficients
        value = along @ b.f.T
        return [
            along @ b.df.T + value * score[1],
            -(a.df @ coefficients) @ b.f.T - value * score[0],
        ]


class _Axis:
    """Functions of one coordinate at N nodes, and the products of those that overlap.

    Attributes
    ----------
    f, df : Tensor (N, K)
    i, j : Tensor (pairs,)
        Numbers of two functions that overlap, i <= j.
    alone : Tensor (K,)
        The pairs where i = j.
    number : Tensor (K, K)
        The pair of two functions; -1 where they do not overlap.
    values, mixed, slopes : Tensor (N, pairs)
        f_i f_j, f_i f_j' + f_i' f_j and f_i' f_j'.
    """

    def __init__(self, basis, nodes: Tensor):
        self.f, self.df, self.size = basis(nodes), basis(nodes, 1), basis.size
        overlap = self.f.abs().T @ self.f.abs() > 0
        self.i, self.j = i, j = torch.triu(overlap).nonzero(as_tuple=True)
        self.alone = (i == j).nonzero()[:, 0]
        self.number = i.new_full((self.size, self.size), -1)
        self.number[i, j] = self.number[j, i] = torch.arange(len(i), device=i.device)
        self.values = self.f[:, i] * self.f[:, j]
        self.mixed = self.f[:, i] * self.df[:, j] + self.df[:, i] * self.f[:, j]
        self.slopes = self.df[:, i] * self.df[:, j]

    def runs(self) -> list[Tensor]:
        """Numbers of the functions in sequence, in parts that overlap with the next one only."""
        reach = int((self.j - self.i).max())
        everything = torch.arange(self.size, device=self.i.device)
        return list(everything.tensor_split(max(1, self.size // max(1, reach))))

    def part(self, where: slice) -> _Axis:
        """The same at some of the nodes."""
        out = copy.copy(self)
        for name in ("f", "df", "values", "mixed", "slopes"):
            setattr(out, name, getattr(self, name)[where])
        return out
