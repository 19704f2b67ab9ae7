r"""F theta' = b for conditional densities: the paper's metric with the scores as duals.

With the scores phi_k = d log rho_theta / d theta_k as the span of the dual potential (and the
driving potential U = V + beta log rho, g = grad U), b(theta)^T A^-1 b(theta) of the paper is

    G = F K^-1 F ,   F = E[phi phi^T] ,   K = E[grad phi grad phi^T] ,   grad H = F u ,   b = -K u ,

so that (27) reads F theta' = b, b_k = -E[grad phi_k . g]. E[phi_i | y_<i] = 0 makes F block
diagonal over the coordinates: a fit in d dimensions is d small systems.

The coordinates fall into blocks that have nothing to do with each other. On blocks of one or two
coordinates the expectations are a quadrature, without any sampling error, at points that never
move: V is asked once. On larger ones they are means over Sobol points pushed through the map.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..divergence import colour, divergence, steps
from ..equation import FokkerPlanck
from ..flows.conditional import ConditionalFlow, Tables
from ..parallel import ALONE, Reduction
from ..potentials import PotentialError
from .points import sobol_normal

_MOST_COLOURS = 24


class Diverged(ArithmeticError):
    """A trial step came to parameters at which nothing is finite."""


@dataclass
class BlockState:
    """The systems F theta' = b of a block's coordinates at one theta.

    Attributes
    ----------
    force : list of Tensor (m_i,)
        b, one a coordinate.
    metric : list of Tensor (m_i, m_i)
        F.
    stiffness : list of Tensor (m_i, m_i)
        beta K, with which a step is implicit; empty where it was not asked for.
    driving : float
        E|g|^2 over the block's coordinates.
    free_energy : float
        E[V + beta log rho], V up to a constant.
    potential_scores : list of Tensor (m_i,)
        E[phi U], the gradient of H.
    noise : float
        Expected square, in the metric, of the sampling error of theta'.
    rate : list of Tensor (m_i,) or None
        theta', where it is not F^-1 b of this state.
    """

    force: list[Tensor]
    metric: list[Tensor]
    stiffness: list[Tensor] = field(default_factory=list)
    driving: float = 0.0
    free_energy: float = 0.0
    potential_scores: list[Tensor] = field(default_factory=list)
    noise: float = 0.0
    rate: list[Tensor] | None = None


def kron_sum(left: Tensor, right: Tensor, inner: Tensor) -> Tensor:
    """sum_p left_pa right_pa' inner_pbb' as a matrix over pairs (a, b), (a', b')."""
    p, a, b = len(left), left.shape[1], inner.shape[1]
    outer = (left[:, :, None] * right[:, None, :]).reshape(p, -1)
    total = (outer.T @ inner.reshape(p, -1)).view(a, a, b, b)
    return total.permute(0, 2, 1, 3).reshape(a * b, a * b)


class QuadratureBlock:
    """One or two coordinates, their expectations by Gauss-Legendre quadrature on fixed nodes.

    Parameters
    ----------
    flow : ConditionalFlow
    indices : sequence of int
        The coordinates, in the order of the flow.
    equation : FokkerPlanck
    centre : Tensor (d,)
        Where the coordinates of the other blocks are held while V is asked.
    refinement : int
        Into so many cells each cell of the flow is cut.
    """

    exact = True
    largest = 2

    def __init__(
        self,
        flow: ConditionalFlow,
        indices,
        equation: FokkerPlanck,
        centre: Tensor,
        refinement: int = 1,
    ):
        self.flow, self.indices, self.equation = flow, list(indices), equation
        self.factors = [flow.factors[i] for i in self.indices]
        if refinement > 1:
            self.factors = [factor.refined(refinement) for factor in self.factors]
        self.centre = centre
        order = flow._order(len(centre))
        self.columns = [order[i] for i in self.indices]
        grid = self._grid()
        self.shape = grid.shape[:-1]
        self._ask(self.nodes())
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

    def _ask(self, points: Tensor) -> None:
        """V and its gradient at the nodes; where they are not finite there may be no mass."""
        value, gradient = self.equation.potential.unchecked(points)
        finite = torch.isfinite(value) & torch.isfinite(gradient).all(1)
        self.lost = (~finite).view(self.shape)
        self.example = points[~finite][:1]
        gradient = torch.where(finite[:, None], gradient, 0.0)
        self.value = torch.where(finite, value, value[finite].max()).view(self.shape)
        self.gradient = [gradient[:, c].view(self.shape) for c in self.columns]

    def renew(self, generator: torch.Generator) -> None:
        """Nothing to draw."""

    def points(self, thetas: list[Tensor]):
        """For every factor its values at the nodes, and the joint weights (N_1, ..., N_b)."""
        states, weights = [], None
        for factor, theta, products, w in zip(
            self.factors, thetas, self.products, self.weights, strict=True
        ):
            at = factor.local(theta, products).at_nodes()
            mass = at.log_density.exp() * w
            weights = mass if weights is None else weights.reshape(-1, 1) * mass
            states.append(at)
        weights = weights.view(self.shape)
        if self.lost.any() and float(weights[self.lost].sum()) > 1e-9:
            self.equation.potential.value_and_grad(self.example)  # which says where and when
            raise PotentialError("the potential is not finite where the solution has mass")
        return states, weights

    def scores(self, states) -> list[Tensor]:
        """grad log rho, one array (N_1, ..., N_b) a coordinate."""
        out = [torch.zeros(self.shape, dtype=self.value.dtype) for _ in states]
        out = [o.to(self.value) for o in out]
        for k, (at, derivatives) in enumerate(zip(states, self.derivatives, strict=True)):
            wide = (*self.shape[: k + 1], *[1] * (len(self.shape) - k - 1))
            out[k] = out[k] + at.score.reshape(wide)
            for j, table in derivatives.items():
                change = table @ at.local.table
                by = torch.matmul(at.phi, change[:, :, None])[..., 0]
                position = self.indices.index(j)
                out[position] = out[position] + by.reshape(wide)
        return out

    def log_density(self, states) -> Tensor:
        """log rho (N_1, ..., N_b)."""
        total = 0.0
        for k, at in enumerate(states):
            wide = (*self.shape[: k + 1], *[1] * (len(self.shape) - k - 1))
            total = total + at.log_density.reshape(wide)
        return total

    def state(self, thetas: list[Tensor], full: bool = True) -> BlockState:
        """The systems at these parameters, one vector a coordinate."""
        beta = self.equation.beta
        states, weights = self.points(thetas)
        missing = abs(float(weights.sum()) - 1)
        if not missing < 5e-3:  # the law has left the box, or is too narrow for the nodes
            raise Diverged
        driving = [v + beta * s for v, s in zip(self.gradient, self.scores(states), strict=True)]
        energy = self.value + beta * self.log_density(states)
        out = BlockState([], [])
        out.driving = float(sum((weights * g.square()).sum() for g in driving))
        out.free_energy = float((weights * energy).sum())
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
            inner = (wide * phi_own).mT @ phi_own
            for _, psi in moves:
                inner = inner + (wide * psi).mT @ psi
            stiff = kron_sum(a, a, inner)
            for table, psi in moves:
                mixed = kron_sum(table, a, (wide * phi).mT @ psi)
                stiff = stiff + kron_sum(table, table, gram) + mixed + mixed.T
            out.stiffness.append(beta * self._pick(factor, stiff))
        return out

    @staticmethod
    def _pick(factor, matrix: Tensor) -> Tensor:
        if factor.full:
            return matrix
        active = factor.active.to(matrix.device)
        return matrix[active][:, active]


class SampledBlock:
    """Any number of coordinates, their expectations over Sobol points pushed through the map.

    Parameters
    ----------
    flow, indices, equation, centre
        As for :class:`QuadratureBlock`.
    n : int
        Number of points.
    damping : float or None
        Of F, relative to its mean diagonal; None takes 1e-4, and 1e-3 in the weak form.
    interacts : ndarray (d, d) of bool, optional
        Which coordinates interact in V; all, where not given.
    processes : Reduction
        Among which the points are shared.
    form : {"auto", "pointwise", "weak"}
        Whether b is E[phi rho^-1 L* rho] or -E[grad phi . g]. The former has no sampling error
        where the family follows the equation, but needs the Laplacian of V: two gradients for each
        of the colours of the graph of V. "auto" takes it up to 24 of them.
    """

    exact = False
    most_direct = 500  # parameters of which the whole Gram matrix is factorised
    coarser = 4  # of so many points one is enough for the stiffness and for the noise

    def __init__(
        self,
        flow: ConditionalFlow,
        indices,
        equation: FokkerPlanck,
        centre: Tensor,
        n: int,
        damping: float | None = None,
        interacts=None,
        processes: Reduction = ALONE,
        form: str = "auto",
    ):
        self.flow, self.indices, self.equation = flow, list(indices), equation
        self.factors = [flow.factors[i] for i in self.indices]
        self.centre, self.n, self.fewest, self.processes = centre, n, n, processes
        order = flow._order(len(centre))
        self.columns = [order[i] for i in self.indices]
        self.last, self.pointwise = None, form == "pointwise"
        if form != "weak":
            ties = np.ones((len(centre),) * 2, bool) if interacts is None else interacts
            groups = colour(ties[np.ix_(self.columns, self.columns)])
            self.colours = [torch.tensor(self.columns)[group] for group in groups]
            self.pointwise = self.pointwise or len(groups) <= _MOST_COLOURS
        if damping is None:
            damping = 1e-4 if self.pointwise else 1e-3
        self.damping = damping

    def renew(self, generator: torch.Generator) -> None:
        """Draw new points."""
        seed = int(torch.randint(2**31 - 1, (), generator=generator))
        x = sobol_normal(self.n, len(self.indices), seed).to(self.centre)
        self.x = self.processes.share(x)

    def push(self, thetas: list[Tensor]):
        """Points in the order of the flow (n, d), with the factors there; their latents differ
        from the Sobol points by the error of an interpolation, which is of no consequence."""
        d = len(self.centre)
        order = self.flow._order(d)
        z = self.centre[order].repeat(len(self.x), 1)
        tables, states = Tables(self.factors[0].bases, z), []
        for k, (factor, theta) in enumerate(zip(self.factors, thetas, strict=True)):
            local = factor.local(theta, factor.products(tables))
            z[:, factor.index] = local.quantile(self.x[:, k], exact=False)
            states.append(local.at_samples(z[:, factor.index]))
        return z, states

    def scores(self, states, like: Tensor) -> Tensor:
        """grad log rho (n, d), in the order of the flow."""
        out = torch.zeros_like(like)
        for at in states:
            factor = at.local.factor
            out[:, factor.index] += at.score[:, 0]
            weights = at.phi[:, 0] @ at.local.table.T
            for j, value in at.local.products.pull(weights):
                out[:, j] += value
        return out

    def state(self, thetas: list[Tensor], full: bool = True) -> BlockState:
        """The systems at these parameters, one vector a coordinate."""
        beta, n = self.equation.beta, self.n
        z, states = self.push(thetas)
        if not torch.isfinite(z).all():
            raise Diverged
        order = self.flow._order(len(self.centre))
        y = torch.empty_like(z)
        y[:, order] = z
        with self.processes.together():
            value, gradient = self.equation.potential.value_and_grad(y)
        if self.pointwise:
            score, curvature = self.curvatures(states, z)
        else:
            score = self.scores(states, z)
        driving = gradient[:, order] + beta * score
        energy = value + beta * sum(at.log_density[:, 0] for at in states)
        here = driving[:, self.indices]
        sums = [here.square().sum()[None], energy.sum()[None]]
        scores = [at.local.factor.expand(at.local.products.values, at.phi[:, 0]) for at in states]
        for at, phi in zip(states, scores, strict=True):
            sums += [phi.T @ phi, energy @ phi]
            if not self.pointwise:
                pulled, spread = self._pull(at, driving)
                sums += [-pulled, spread]
            if full:
                sums.append(self._stiffness(at))
        total = iter(t / n for t in self.processes.sum(*sums))
        out = BlockState([], [], driving=float(next(total)), free_energy=float(next(total)))
        for _ in states:
            out.metric.append(next(total))
            out.potential_scores.append(next(total))
            if not self.pointwise:
                out.force.append(next(total))
                out.noise += self._noise(out.metric[-1], out.force[-1], next(total))
            if full:
                out.stiffness.append(beta * next(total))
        if self.pointwise:
            right = self._right(y, gradient[:, order], score, curvature)
            self._regress(out, scores, right)
        return out

    def _pull(self, at, driving: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over points of grad phi . g (m_i,) and of its square (m_i, m_i)."""
        few = slice(None, None, self.coarser)
        factor, products = at.local.factor, at.local.products
        a, along, phi = products.values, products.along(driving), at.phi[:, 0]
        psi = at.phi_moved(along @ at.local.table)
        own = driving[:, factor.index, None] * at.phi_own[:, 0] + psi[:, 0]
        pulls = factor.expand(a[few], own[few]) + factor.expand(along[few], phi[few])
        return factor.pick(a.T @ own + along.T @ phi), pulls.T @ pulls * self.coarser

    def _noise(self, metric: Tensor, force: Tensor, square: Tensor) -> float:
        """Expected square of the error of F^-1 b in the norm of F, from E[(grad phi . g)^2]."""
        damped = metric + self.damping * metric.diagonal().mean() * torch.eye(len(force)).to(metric)
        root, info = torch.linalg.cholesky_ex(damped)
        if int(info):
            raise Diverged
        spread = square - torch.outer(force, force)
        return float(torch.cholesky_solve(spread, root).diagonal().sum()) / self.n

    def _stiffness(self, at) -> Tensor:
        """Sum over points of grad phi grad phi^T (m_i, m_i)."""
        few = slice(None, None, self.coarser)
        factor, products = at.local.factor, at.local.products
        a, phi = products.values[few], at.phi[few, 0]
        slopes = factor.expand(a, at.phi_own[few, 0])
        stiff, at = slopes.T @ slopes, at.rows(few)
        for j in self._stiff_parents(factor):
            table = products.derivative(j)[few]
            psi = at.phi_moved(table @ at.local.table)
            by = factor.expand(a, psi[:, 0]) + factor.expand(table, phi)
            stiff = stiff + by.T @ by
        return stiff * self.coarser

    def curvatures(self, states, like: Tensor) -> tuple[Tensor, Tensor]:
        """grad log rho (n, d), in the order of the flow, and its divergence (n,)."""
        score, curvature = torch.zeros_like(like), torch.zeros_like(like[:, 0])
        for at in states:
            curvature = curvature + at.add_curvature(score)
        return score, curvature

    def _right(self, y: Tensor, gradient: Tensor, score: Tensor, curvature: Tensor) -> Tensor:
        """rho^-1 L* rho = Laplacian V + grad V . s + beta (div s + |s|^2) at the points (n,)."""
        with self.processes.together():
            laplacian = divergence(
                lambda y: self.equation.potential.value_and_grad(y)[1],
                y,
                steps(y),
                self.colours,
                torch.Generator().manual_seed(0),
            )
        here, s = gradient[:, self.indices], score[:, self.indices]
        return laplacian + (here * s).sum(1) + self.equation.beta * (curvature + s.square().sum(1))

    def _regress(self, out: BlockState, scores: list[Tensor], right: Tensor) -> None:
        """theta' as the regression of rho^-1 L* rho on the scores, over all coordinates at once.

        F is block diagonal in expectation only; without the blocks between coordinates what the
        others explain would be noise to each.
        """
        n, sizes = self.n, [s.shape[1] for s in scores]
        (mean,) = self.processes.sum(right.sum()[None]) / n
        right = right - mean
        if sum(sizes) <= self.most_direct:
            rate, misfit = self._solve_at_once(out, torch.cat(scores, 1), right)
        else:
            rate, misfit = self._solve_by_gradients(out, scores, right)
        self.last = rate
        out.rate = list(rate.split(sizes))
        out.force = [m @ r for m, r in zip(out.metric, out.rate, strict=True)]
        out.imbalance = max(misfit, 0.0)
        out.noise = out.imbalance * len(rate) / max(n - len(rate), 0.25 * n)

    def _solve_at_once(self, out, phi, right) -> tuple[Tensor, float]:
        gram, force, square = self.processes.sum(
            phi.T @ phi, right @ phi, right.square().sum()[None]
        )
        gram, force = gram / self.n, force / self.n
        damping = torch.cat([m.diagonal().mean().expand(len(m)) for m in out.metric])
        root = torch.linalg.cholesky(gram + torch.diag(self.damping * damping))
        rate = torch.cholesky_solve(force[:, None], root)[:, 0]
        return rate, float(square / self.n - 2 * rate @ force + rate @ gram @ rate)

    def _solve_by_gradients(self, out, scores, right) -> tuple[Tensor, float]:
        """Conjugate gradients from the last theta', with F, block by block, as preconditioner.

        Where there are few more points than parameters, the solution would fit their noise: a few
        steps from a theta' that other points have given do not.
        """
        n, sizes = self.n, [s.shape[1] for s in scores]
        damping = [self.damping * m.diagonal().mean() for m in out.metric]
        roots = [
            torch.linalg.cholesky(m + c * torch.eye(len(m)).to(m))
            for m, c in zip(out.metric, damping, strict=True)
        ]

        def explained(rate):
            parts = zip(scores, rate.split(sizes), strict=True)
            return sum(phi @ part for phi, part in parts)

        def pulled(values):
            return self.processes.sum(torch.cat([values @ phi for phi in scores])) / n

        def precondition(v):
            parts = zip(v.split(sizes), roots, strict=True)
            return torch.cat([torch.cholesky_solve(p[:, None], r)[:, 0] for p, r in parts])

        ridge = torch.cat([c.expand(k) for c, k in zip(damping, sizes, strict=True)])
        rate = right.new_zeros(sum(sizes)) if self.last is None else self.last
        left = right - explained(rate)
        gradient = pulled(left) - ridge * rate
        step = direction = precondition(gradient)
        size = first = gradient @ step
        for _ in range(20 if n > 6 * len(rate) else 6):
            moved = explained(direction)
            (curvature,) = self.processes.sum(moved.square().sum()[None]) / n
            length = size / (curvature + direction @ (ridge * direction))
            rate = rate + length * direction
            left = left - length * moved
            gradient = pulled(left) - ridge * rate
            step = precondition(gradient)
            size, before = gradient @ step, size
            if size <= 1e-6 * first:
                break
            direction = step + (size / before) * direction
        (misfit,) = self.processes.sum(left.square().sum()[None]) / n
        return rate, float(misfit)

    @staticmethod
    def _stiff_parents(factor) -> list[int]:
        """Coordinates in which features are fine enough to make the march stiff."""
        rich = {
            j
            for parents, functions, _ in factor.groups
            for j, chosen in zip(parents, functions, strict=True)
            if (chosen.stop - 1 if isinstance(chosen, slice) else max(chosen)) > 2
        }
        return sorted(rich)
