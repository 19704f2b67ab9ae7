"""Blocks of more than two coordinates: expectations over points pushed through the map."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..divergence import colour, steps
from ..equation import FokkerPlanck
from ..flows.conditional import ConditionalFlow, Tables
from ..parallel import ALONE, Reduction
from .points import draw_seed, sobol_normal
from .score_blocks import Block, BlockState, Diverged

_MOST_COLOURS = 24
_FEWEST, _MOST = 2048, 16384  # points
_FEWEST_OF_MANY = 4096  # to start with, however many parameters there are
_VAGUE = 0.08  # of a rate, in the Fisher norm, that may be noise of what the family cannot follow
_RISE = 0.5  # of a free energy in a step, in units of beta, and
_UPHILL = 0.5  # of its rate, in units of E|g|^2, that no sampling error explains


class SampledBlock(Block):
    """Any number of coordinates, their expectations over Sobol points pushed through the map.

    Parameters
    ----------
    flow, indices, equation, centre, damping
        As for :class:`~.score_blocks.Block`; a damping of None is 1e-4, and 1e-3 in the weak form.
    n_samples : int or None
        Number of points; None starts with one and a half a parameter, from 2048 to 4096, and takes
        up to 16384 in the weak form.
    interacts : ndarray (d, d) of bool, optional
        Which coordinates interact in V; all, where not given.
    form : {"auto", "pointwise", "weak"}
        Whether b is E[phi rho^-1 L* rho] or -E[grad phi . g]. The former has no sampling error
        where the family follows the equation, but needs the Laplacian of V: two gradients for each
        of the colours of the graph of V. "auto" takes it up to 24 of them, for gradient flows that
        the family follows at the start, and where D has no inverse.
    processes : Reduction
        Among which the points are shared.
    """

    most_direct = 500  # parameters of which the whole Gram matrix is factorised
    coarser = 4  # of so many points one is enough for the noise

    def __init__(
        self,
        flow: ConditionalFlow,
        indices,
        equation: FokkerPlanck,
        centre: Tensor,
        damping: float,
        n_samples: int | None = None,
        interacts=None,
        form: str = "auto",
        processes: Reduction = ALONE,
    ):
        super().__init__(flow, indices, equation, centre, damping)
        ties = np.ones((len(centre),) * 2, bool) if interacts is None else interacts
        groups = colour(ties[np.ix_(self.columns, self.columns)])
        self.colours = [torch.tensor(self.columns)[group] for group in groups]
        few = len(groups) <= _MOST_COLOURS
        # what the family cannot follow makes the regression run away where no free energy falls;
        # without diffusion in a coordinate the weak form has nothing to rest on
        steady = equation.has_energy or not equation.regular
        pointwise = few and equation.diagonal and steady
        self.pointwise = form == "pointwise" or (form == "auto" and pointwise)
        self.form, self._chosen = form, (damping, n_samples)
        if damping is None:
            self.damping = 1e-4 if self.pointwise else 1e-3
        unknowns = sum(factor.size for factor in self.factors)
        enough = 2 ** math.ceil(math.log2(max(_FEWEST, 1.5 * unknowns)))
        self.n = self.fewest = n_samples or min(enough, _FEWEST_OF_MANY)
        # what the family cannot follow is its own error, which more points do not lower
        self.most = self.n if n_samples or self.pointwise else _MOST
        self.tolerance = 2e-2 * min(max(1.0, len(self.indices) / 6), 4.0)
        self.processes = processes
        self.last: Tensor | None = None

    def renew(self, generator, error=0.0):
        if error > 1 and self.n < self.most:
            self.n *= 2
        elif error < 1 / 4 and self.n > self.fewest:
            self.n //= 2
        x = sobol_normal(self.n, len(self.indices), draw_seed(generator)).to(self.centre)
        self.x = self.processes.share(x)

    def runs_away(self, before: BlockState, after: BlockState) -> bool:
        """Whether the free energy of a steady gradient flow does not fall, as it has to.

        What the family cannot follow is noise to the regression of rho^-1 L* rho, and may feed on
        itself; -E[grad phi . g] is minus the gradient of that energy.
        """
        if not (self.form == "auto" and self.equation.has_energy and self.equation.steady):
            return False
        pairs = zip(after.potential_scores, after.rate, strict=True)
        rate = sum(float(u @ theta) for u, theta in pairs)
        rise = after.free_energy - before.free_energy
        return rise > _RISE * self.equation.beta or rate > _UPHILL * after.driving

    def weaken(self) -> bool:
        """Take the weak form from now on; False where it is taken, or not to be had."""
        if not (self.pointwise and self.form == "auto" and self.equation.has_energy):
            return False
        damping, n_samples = self._chosen
        self.pointwise = False
        self.damping = 1e-3 if damping is None else damping
        self.most = self.n if n_samples else _MOST
        return True

    def settle(self, thetas: list[Tensor]) -> None:
        if not (self.pointwise and self.form == "auto" and self.equation.has_energy):
            return
        state = self.state(thetas, full=False)
        pairs = zip(state.metric, state.rate, strict=True)
        if state.noise > _VAGUE**2 * sum(float(r @ metric @ r) for metric, r in pairs):
            self.weaken()

    def push(self, thetas: list[Tensor]):
        """Points in the order of the flow (n, d), with the factors there; their latents differ
        from the Sobol points by the error of an interpolation, which is of no consequence."""
        z = self.centre[self.order].repeat(len(self.x), 1)
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
        equation, n = self.equation, self.n
        z, states = self.push(thetas)
        if not torch.isfinite(z).all():
            raise Diverged
        y = torch.empty_like(z)
        y[:, self.order] = z
        with self.processes.together():
            value, pull = equation.at_points(y)
        if self.pointwise:
            score, curvature = self.curvatures(states, z)
        else:
            score = self.scores(states, z)
        log_density = sum(at.log_density[:, 0] for at in states)
        with self.processes.together():
            driving = pull + equation.spread(y, self._in_x(score), log_density)
            along = torch.as_tensor(equation.spread_along(y, log_density)).to(y)
            along = along.expand_as(y)[:, self.order]
        driving = driving[:, self.order]
        energy = value
        if equation.has_energy:
            energy = value + equation.beta * log_density
        here = driving[:, self.indices]
        sums = [here.square().sum()[None], energy.sum()[None]]
        scores = [at.local.factor.expand(at.local.products.values, at.phi[:, 0]) for at in states]
        for at, phi in zip(states, scores, strict=True):
            sums += [phi.T @ phi, energy @ phi, phi.sum(0)]
            if not self.pointwise:
                pulled, spread = self._pull(at, driving)
                sums += [-pulled, spread]
            if full:
                sums.append(self._stiffness(at, along))
        total = iter(t / n for t in self.processes.sum(*sums))
        out = BlockState(driving=float(next(total)), free_energy=float(next(total)))
        for _ in states:
            out.metric.append(next(total))
            # E[phi] = 0: the mean of the energy is taken off as a control variate
            out.potential_scores.append(next(total) - out.free_energy * next(total))
            if not self.pointwise:
                out.force.append(next(total))
                out.noise += self._noise(out.metric[-1], out.force[-1], next(total))
            if full:
                out.stiffness.append(next(total))
        if self.pointwise:
            parts = self._in_x(score), self._in_x(curvature)
            right = self._right(y, pull, *parts, log_density)
            self._regress(out, scores, right)
        else:
            out.rate = self.solved(out)
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
        root = torch.linalg.cholesky(self.damped(metric))
        spread = square - torch.outer(force, force)
        return float(torch.cholesky_solve(spread, root).diagonal().sum()) / self.n

    def _in_x(self, z: Tensor) -> Tensor:
        """Columns in the order of the flow, in that of the points."""
        out = torch.empty_like(z)
        out[:, self.order] = z
        return out

    def _stiffness(self, at, along: Tensor) -> Tensor:
        """Sum over points of the own part of grad phi . D grad phi (m_i, m_i): enough for a step.

        ``along`` (n, d) is the diagonal of D.
        """
        factor = at.local.factor
        slopes = factor.expand(at.local.products.values, at.phi_own[:, 0])
        return (slopes * along[:, factor.index, None]).T @ slopes

    def curvatures(self, states, like: Tensor) -> tuple[Tensor, Tensor]:
        """grad log rho and its own derivatives (n, d), in the order of the flow."""
        score, curvature = torch.zeros_like(like), torch.zeros_like(like)
        for at in states:
            at.add_curvature(score, curvature)
        return score, curvature

    def _right(self, y: Tensor, pull: Tensor, score, curvature, log_density) -> Tensor:
        """rho^-1 L* rho of the block's coordinates at the points (n,)."""
        generator = torch.Generator().manual_seed(0)
        with self.processes.together():
            return self.equation.balance(
                y, pull, score, curvature, steps(y), self.colours, generator, log_density
            )

    def _regress(self, out: BlockState, scores: list[Tensor], right: Tensor) -> None:
        """theta' as the regression of rho^-1 L* rho on the scores, over all coordinates at once.

        F is block diagonal in expectation only; without the blocks between coordinates what the
        others explain would be noise to each.
        """
        sizes = [s.shape[1] for s in scores]
        right = right - self.processes.sum(right.sum()[None]) / self.n
        if sum(sizes) <= self.most_direct:
            rate = self._solve_at_once(out, torch.cat(scores, 1), right)
        else:
            rate = self._solve_by_gradients(out, scores, right)
        out.rate, self.last = list(rate.split(sizes)), rate
        left = right - sum(p @ r for p, r in zip(scores, out.rate, strict=True))
        (square,) = self.processes.sum(left.square().sum()[None])
        out.noise = float(square) / self.n * len(rate) / max(self.n - len(rate), 1)
        out.force = [m @ r for m, r in zip(out.metric, out.rate, strict=True)]

    def _ridge(self, metrics: list[Tensor]) -> Tensor:
        """The damping of every parameter."""
        return torch.cat([self.damping * m.diagonal().mean().expand(len(m)) for m in metrics])

    def _solve_at_once(self, out, phi, right) -> Tensor:
        gram, force = self.processes.sum(phi.T @ phi, right @ phi)
        damped = gram / self.n + torch.diag(self._ridge(out.metric))
        root = torch.linalg.cholesky(damped)
        return torch.cholesky_solve(force[:, None] / self.n, root)[:, 0]

    def _solve_by_gradients(self, out, scores, right) -> Tensor:
        """Conjugate gradients from the last theta', with F, block by block, as preconditioner.

        Where there are few more points than parameters, the solution would fit their noise: a few
        steps from a theta' that other points have given do not.
        """
        n, sizes = self.n, [s.shape[1] for s in scores]
        roots = [torch.linalg.cholesky(self.damped(metric)) for metric in out.metric]

        def explained(rate):
            parts = zip(scores, rate.split(sizes), strict=True)
            return sum(phi @ part for phi, part in parts)

        def pulled(values):
            return self.processes.sum(torch.cat([values @ phi for phi in scores])) / n

        def precondition(v):
            parts = zip(v.split(sizes), roots, strict=True)
            return torch.cat([torch.cholesky_solve(p[:, None], r)[:, 0] for p, r in parts])

        ridge = self._ridge(out.metric)
        rate = right.new_zeros(sum(sizes)) if self.last is None else self.last
        left = right - explained(rate)
        gradient = pulled(left) - ridge * rate
        step = direction = precondition(gradient)
        size = first = gradient @ step
        for _ in range(20 if n > 6 * len(rate) else 12):
            moved = explained(direction)
            curvature = self.processes.sum(moved.square().sum()[None]) / n
            length = size / (curvature + direction @ (ridge * direction))
            rate = rate + length * direction
            left = left - length * moved
            gradient = pulled(left) - ridge * rate
            step = precondition(gradient)
            size, before = gradient @ step, size
            if size <= 1e-6 * first:
                break
            direction = step + (size / before) * direction
        return rate
