"""The nested scheme with the scores as duals, marched by a linearly implicit method."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import parallel
from ..equation import FokkerPlanck
from ..potentials import PotentialError
from .base import Scheme, Step
from .errors import MarchError
from .points import crowd
from .quadrature_block import QuadratureBlock
from .sampled_block import SampledBlock
from .score_blocks import Block, BlockState, Diverged

_GAMMA = 1 - 1 / math.sqrt(2)
_KEEP = 3  # steps that points are kept for


class ScoreDualNested(Scheme):
    r"""F theta' = b with F = E[phi phi^T], b = -E[grad phi . (grad V + beta grad log rho)].

    The inner maximum of (45) over the span of the scores phi = d log rho / d theta (see
    :mod:`skfokker.schemes.score_blocks`), for conditional densities
    (:class:`~skfokker.flows.ConditionalFlow`). In time it takes steps of a W-method of order two,
    whose stages solve (F + gamma h beta K) k = b coordinate by coordinate; the error of a step is
    measured in the Fisher norm, whose square is twice a Kullback-Leibler divergence.

    Parameters
    ----------
    tolerance : float or None, default=None
        Local error of a step, sqrt(e^T F e). None takes 1e-2 where all expectations are
        quadratures; where some are means over points 2e-2, in blocks of six to twenty-four
        coordinates times a sixth of their number.
    n_samples : int or None, default=None
        Sobol points for blocks of more than two coordinates. None starts with
        one and a half a parameter, from 2048 to 4096; in the weak form it takes up to 16384 while
        the sampling error of a step is larger than ``tolerance``.
    damping : float or None, default=None
        Added to the diagonal of F, relative to its mean. None takes 1e-5 where expectations are
        quadratures, and 1e-4 where they are means over points
        (1e-3 in the weak form).
    first_step : float, default=1e-4
        First step, relative to the span.
    max_step : float or None, default=None
        Largest step; None allows a tenth of the span.
    max_steps : int, default=5000
        Give up after that many steps.
    form : {"auto", "pointwise", "weak"}, default="auto"
        How b is computed for blocks of more than two coordinates: as E[phi rho^-1 L* rho], which
        has no sampling error where the family follows the equation but needs the Laplacian of V
        (two gradients for each colour of its graph), or as -E[grad phi . g], which needs grad V
        alone. "auto" takes the former for up to 24 colours, for gradient
        flows that the family follows at the start, and where D has no inverse; the latter also
        from where on the free energy of a gradient flow rises, or steps collapse.

    Raises
    ------
    MarchError
        If the step size collapses or ``max_steps`` is reached.

    References
    ----------
    The method is ROS2 of J. G. Verwer, E. J. Spee, J. G. Blom, W. Hundsdorfer, "A second-order
    Rosenbrock method applied to photochemical dispersion problems", SIAM J. Sci. Comput. 20 (1999),
    of order two with any matrix in the place of the Jacobian. As a projection of the equation on a
    family of densities: D. Brigo, B. Hanzon, F. Le Gland, "Approximate nonlinear filtering by
    projection on exponential manifolds of densities", Bernoulli 5 (1999).
    """

    aims_at_tolerance = True
    any_equation = True

    def __init__(
        self,
        tolerance: float | None = None,
        n_samples: int | None = None,
        damping: float | None = None,
        first_step: float = 1e-4,
        max_step: float | None = None,
        max_steps: int = 5000,
        form: str = "auto",
    ):
        self.tolerance = tolerance
        self.n_samples = n_samples
        self.damping = damping
        self.first_step = first_step
        self.max_step = max_step
        self.max_steps = max_steps
        self.form = form

    def steps(self, equation, flow, theta, t_start, t_end, generator):
        if self.form not in ("auto", "pointwise", "weak"):
            raise ValueError(
                f"form of ScoreDualNested must be 'auto', 'pointwise' or 'weak', got {self.form!r}"
            )
        if not flow.marched_by_scores:
            raise ValueError(
                f"ScoreDualNested marches families whose scores are at hand, such as "
                f"ConditionalFlow(), but flow={flow!r}: leave scheme out, or take "
                "LeastSquaresNested()."
            )
        equation.move_to(t_start, lambda n: crowd(flow, theta, equation.d, n))
        march = _March(self, equation, flow, theta, generator)
        span = t_end - t_start
        largest = self.max_step or span / 10
        t, h, rejected = t_start, min(largest, self.first_step * span), 0
        now = march.evaluate(theta, t_start)
        for _ in range(self.max_steps):
            yield Step(t, now.theta, now.velocity, march.record(now, rejected))
            if t >= t_end:
                return
            for attempt in range(60):
                remaining = t_end - t
                step = remaining if h > 0.999 * remaining else min(h, (remaining + h) / 2)
                now, error = march.step(now, t, step)
                factor = 0.2 if not math.isfinite(error) else 0.85 / math.sqrt(max(error, 1e-8))
                h = min(largest, step * min(3.0, max(0.2, factor)))
                if error <= 1:
                    rejected = attempt
                    break
                if step < 1e-12 * span:
                    if march.failure is not None or not march.weaken():
                        break
                    now, h = march.evaluate(now.theta, t), self.first_step * span
            if error > 1:
                if march.failure is not None:
                    raise march.failure
                cause = (
                    "the potential may be unbounded below"
                    if equation.has_energy
                    else "drift may compress the law into less than the functions resolve"
                )
                raise MarchError(
                    f"the step size fell to {step:.1e} at t = {t:.6g}: {cause}, or the family of "
                    "conditional densities too coarse for the law. Try "
                    "flow=ConditionalFlow(capacity=2), or a larger damping or n_samples of the "
                    "scheme."
                )
            t = t_end if step == remaining else t + step
        raise MarchError(
            f"max_steps={self.max_steps} steps were made and t = {t:.6g} of {t_end:.6g} reached; "
            "try a larger max_steps or tolerance."
        )


class _State:
    """theta with its systems."""

    def __init__(self, theta: Tensor, blocks: list[BlockState], velocity: Tensor):
        self.theta, self.blocks, self.velocity = theta, blocks, velocity


class _March:
    """What a step needs: the blocks and how they stand in theta."""

    def __init__(self, scheme, equation: FokkerPlanck, flow, theta: Tensor, generator):
        self.flow, self.equation, self.generator = flow, equation, generator
        self.evaluations = self.age = 0
        self.failure: PotentialError | None = None
        self.processes, centre = parallel.reduction(), flow.centre(equation.d).to(theta)
        self.blocks: list[Block] = []
        for indices in flow.blocks():
            place = flow, indices, equation, centre, scheme.damping
            block: Block | None = self._quadrature(theta, *place)
            if block is None:
                block = SampledBlock(
                    *place, scheme.n_samples, equation.interacts, scheme.form, self.processes
                )
            block.renew(generator)
            parts = flow.split(theta)
            block.settle([parts[i] for i in block.indices])
            self.blocks.append(block)
        self.tolerance = scheme.tolerance or max(block.tolerance for block in self.blocks)

    def _quadrature(self, theta: Tensor, flow, indices, *rest) -> QuadratureBlock | None:
        """Expectations by quadrature, for few coordinates whose law the nodes resolve."""
        if len(indices) > QuadratureBlock.largest or not self.equation.regular:
            return None  # without diffusion a law may become narrower than any fixed nodes
        parts = flow.split(theta)
        with self.processes.together():
            block = QuadratureBlock(flow, indices, *rest)
            try:
                block.points([parts[i] for i in indices])
            except Diverged:
                return None
        return block

    def split(self, theta: Tensor) -> list[list[Tensor]]:
        parts = self.flow.split(theta)
        return [[parts[i] for i in block.indices] for block in self.blocks]

    def join(self, parts: list[list[Tensor]]) -> Tensor:
        """theta (m,) of one vector a coordinate, block by block."""
        out: list = [None] * sum(len(block.indices) for block in self.blocks)
        for block, vectors in zip(self.blocks, parts, strict=True):
            for i, vector in zip(block.indices, vectors, strict=True):
                out[i] = vector
        return torch.cat(out)

    def evaluate(self, theta: Tensor, t: float, full: bool = True) -> _State:
        self.evaluations += 1
        if not torch.isfinite(theta).all():
            raise Diverged
        self.equation.move_to(t, lambda n: crowd(self.flow, theta, self.equation.d, n))
        pairs = zip(self.blocks, self.split(theta), strict=True)
        states = [block.state(parts, full) for block, parts in pairs]
        return _State(theta, states, self.join([state.rate for state in states]))

    def renew(self, now: _State, h: float) -> None:
        """New points after a few steps, as many as the sampling error of a step asks for.

        With new points at every step the march runs after another rest at each.
        """
        self.age += 1
        if self.age % _KEEP:
            return
        for block, state in zip(self.blocks, now.blocks, strict=True):
            block.renew(self.generator, h * math.sqrt(max(state.noise, 0.0)) / self.tolerance)

    def step(self, now: _State, t: float, h: float) -> tuple[_State, float]:
        """The state at t + h, and its error relative to the one allowed; or the present one.

        Where a block runs away, the present one on other points, in the weak form of that block.
        """
        self.failure = None
        try:
            after, error = self._step(now, t, h)
            if error <= 1:
                states = zip(self.blocks, now.blocks, after.blocks, strict=True)
                lost = [block for block, *pair in states if block.runs_away(*pair)]
                for block in lost:
                    block.weaken()
                    block.renew(self.generator, math.inf)
                if lost:
                    return self.evaluate(now.theta, t), math.inf
            return after, error
        except PotentialError as failure:
            self.failure = failure
        except (Diverged, torch.linalg.LinAlgError):
            pass
        return now, math.inf

    def weaken(self) -> bool:
        """Take the weak form of all blocks; whether there was one to take."""
        return any([block.weaken() for block in self.blocks])

    def _step(self, now: _State, t: float, h: float) -> tuple[_State, float]:
        first, factors = [], []
        for block, state in zip(self.blocks, now.blocks, strict=True):
            ks, lus = [], []
            for f, k, rate in zip(state.metric, state.stiffness, state.rate, strict=True):
                metric = block.damped(f)
                root, info = torch.linalg.cholesky_ex(metric + _GAMMA * h * k)
                if int(info):
                    raise Diverged
                ks.append(torch.cholesky_solve((metric @ rate)[:, None], root)[:, 0])
                lus.append((metric, root))
            first.append(ks)
            factors.append(lus)
        middle = self.evaluate(now.theta + h * self.join(first), t + h, full=False)
        second, square = [], 0.0
        for k1, then, lus, state in zip(first, middle.blocks, factors, now.blocks, strict=True):
            ks = []
            for a, f, (metric, root), fisher in zip(k1, then.rate, lus, state.metric, strict=True):
                b = torch.cholesky_solve((metric @ (f - 2 * a))[:, None], root)[:, 0]
                e = 0.5 * h * (a + b)
                square += float(e @ fisher @ e)
                ks.append(b)
            second.append(ks)
        error = math.sqrt(max(square, 0.0)) / self.tolerance
        if not math.isfinite(error) or error > 1:
            return now, error if math.isfinite(error) else math.inf
        theta = now.theta + h * (1.5 * self.join(first) + 0.5 * self.join(second))
        self.renew(now, h)
        return self.evaluate(theta, t + h), error

    def record(self, now: _State, rejected: int) -> dict:
        dissipation = -sum(
            float(u @ rate)
            for state in now.blocks
            for u, rate in zip(state.potential_scores, state.rate, strict=True)
        )
        evaluations, self.evaluations = self.evaluations, 0
        speed = sum(
            float(rate @ metric @ rate)
            for state in now.blocks
            for rate, metric in zip(state.rate, state.metric, strict=True)
        )
        energy = {
            "free_energy": sum(state.free_energy for state in now.blocks),
            "dissipation": dissipation,
        }
        return {
            **(energy if self.equation.has_energy else {}),
            "force": sum(state.driving for state in now.blocks),
            "speed": math.sqrt(max(speed, 0.0)),
            "evaluations": evaluations,
            "rejected": rejected,
            "noise": math.sqrt(max(0.0, sum(state.noise for state in now.blocks))),
            "tolerance": self.tolerance,
            "n_samples": max(block.n for block in self.blocks),
        }
