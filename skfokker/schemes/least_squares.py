"""The nested scheme with the inner maximum in closed form: the default."""

from __future__ import annotations

import math
from functools import partial

import torch

from .. import parallel
from ..equation import log_normal
from ..flows.affine import AffineFlow
from ..flows.mixture import MixtureFlow
from ..potentials import PotentialError
from .base import Scheme, Step
from .errors import MarchError
from .features import train_dormant
from .growth import Growing
from .integrators import Chebyshev, StepControl, bogacki_shampine, dormand_prince
from .mixture_solver import MixtureSolver
from .normal_equations import (
    AffineSolver,
    ConjugateGradientSolver,
    CoordinateSolver,
    DirectSolver,
    InnerProblem,
)
from .points import crowd, draw_seed, normal_grid, sobol_normal
from .projected import ProjectedSolver, as_metric


class LeastSquaresNested(Scheme):
    r"""theta' = argmin_xi E |dT/dtheta xi + grad V + beta grad log rho|^2 (equation (28)).

    The inner problem of the nested scheme (45) is solved to the end at every evaluation: as
    damped normal equations with the score carried pointwise through the layers, which has no
    sampling error where the family contains the exact velocity. The outer march takes steps of
    Dormand-Prince, or of a stabilised Runge-Kutta-Chebyshev method where that goes further per
    evaluation; their length follows the local error in the space of the samples,
    :math:`E|dT/d\theta\, e|^2`.

    Where the potential is a sum over coordinates and the map is separable, the expectation is
    a trapezoidal quadrature and free of sampling noise; otherwise it is a mean over scrambled
    Sobol points, drawn afresh for every step.

    Parameters
    ----------
    tolerance : float or None, default=None
        Local error of a step allowed, root mean square over samples, relative to the spread of
        the samples. None takes 1e-5, and 1e-3 with conjugate gradients, whose own error hides
        smaller ones.
    n_samples : int or None, default=None
        Points of the expectation. None takes 16 a parameter of a coordinate (separable case),
        else enough for 6 to 12 equations an unknown, twice that above 600 parameters, from 512 to
        8192.
    damping : float or None, default=None
        Added to the diagonal of the metric, relative to its mean. None takes 1e-8, and 1e-4
        with conjugate gradients. For mixtures, the cost of moving components one by one (1e-4).
    solver : {"auto", "direct", "cg"}, default="auto"
        Linear solver for maps that are not separable; "auto" takes "direct" up to 600
        parameters.
    cg_tolerance : float, default=1e-3
        Relative residual at which conjugate gradients stop, in the preconditioned norm.
        Stopping at 1e-2 costs a factor of seven in the residual of (28).
    max_step : float or None, default=None
        Largest step; None allows t_end - t_start over 20, over 50 with conjugate gradients, and
        over 100 for affine maps, where steps are cheap and the interpolation between them is all
        of the error.
    max_stages : int, default=40
        Largest number of Chebyshev stages of a step.
    feature_iterations : int, default=60
        L-BFGS iterations that train the hidden units of triangular layers on the initial
        velocity, where the map starts at the identity, and those of layers held in reserve on
        the residual that wakes them.
    growth_rate : float, default=1e-2
        Certified error in nats a unit of time, E|r|^2 / (4 beta), above which two more layers of
        the reserve are woken.
    max_steps : int, default=10000
        Give up after that many steps.
    max_memory : float, default=1.0
        GiB that the largest array of derivatives of the map on the sample points may take, and
        again the preconditioner of conjugate gradients: expect a peak of about three times that.
        More points than fit are worked on in blocks, their derivatives computed anew in every
        pass; of the preconditioner what fits is kept.
    metric : {"relaxed", "projected"} or ProjectedMetric, default="relaxed"
        Which velocity is sought: that of least residual, or of least residual once projected on
        gradient fields (the paper's metric G, over a span of dual potentials). Separable maps
        move by gradient fields alone: there the two are the same. The projected metric is
        factorised explicitly, whatever ``solver`` says.

    Raises
    ------
    MarchError
        If the step size collapses or ``max_steps`` is reached.
    """

    aims_at_tolerance = True
    any_equation = True

    def __init__(
        self,
        tolerance: float | None = None,
        n_samples: int | None = None,
        damping: float | None = None,
        solver: str = "auto",
        cg_tolerance: float = 1e-3,
        max_step: float | None = None,
        max_stages: int = 40,
        feature_iterations: int = 60,
        growth_rate: float = 1e-2,
        max_steps: int = 10000,
        metric="relaxed",
        max_memory: float = 1.0,
    ):
        self.tolerance = tolerance
        self.n_samples = n_samples
        self.damping = damping
        self.solver = solver
        self.cg_tolerance = cg_tolerance
        self.max_step = max_step
        self.max_stages = max_stages
        self.feature_iterations = feature_iterations
        self.growth_rate = growth_rate
        self.max_steps = max_steps
        self.metric = metric
        self.max_memory = max_memory

    def steps(self, equation, flow, theta, t_start, t_end, generator):
        family = Growing(flow, theta, equation.d)
        span = t_end - t_start
        slowest = 1e-6 / span  # a rate that nothing comes of
        march = _March(self, equation, family.awake, family.active(), generator, slowest)
        largest = self.max_step or span / march.fewest_steps
        problem = march.training_problem(family.active())
        now = march.evaluate(
            march.reduction.same(train_dormant(march.flow, problem, self.feature_iterations))
        )
        control = StepControl(march.integrators, min(largest, 1e-3 * span), largest)
        t, grown, rejected, crawling = t_start, t_start, 0, 0
        for _ in range(self.max_steps):
            yield self._stored(t, now, family, march, rejected)
            if t >= t_end:
                return
            march.t = t
            equation.move_to(t)
            before, now = now, march.resample(now)
            if family.asleep and t - grown >= span / 20 and self._asks_for_more(now, equation):
                grown = t
                march, now = self._grow(family, march, now)
                control.replace(march.integrators)
            if now is not before:
                # a second point at the same time: theta is continuous, theta' is not
                yield self._stored(t, now, family, march, 0)
            rho = march.spectral_radius(now)
            allowed = march.tolerance * max(now.problem.spread(), 1e-12)
            for attempt in range(40):
                integrator, h = control.propose(rho)
                remaining = t_end - t
                # neither a step shorter than rounding at the end, nor a sliver before it
                h = remaining if h > 0.999 * remaining else min(h, (remaining + h) / 2)
                after, error = march.step(integrator, now, h, rho)
                control.report(integrator, h, error / allowed)
                if error <= allowed:
                    rejected = attempt
                    break
            else:
                if march.failure is not None:
                    raise march.failure
                raise MarchError(
                    f"the step size fell to {h:.1e} at t = {t:.6g}: the free energy may have "
                    "no minimum, or the map has degenerated. Try a larger damping, more "
                    "n_samples, or another flow."
                )
            crawling = crawling + 1 if h < 1e-6 * span else 0
            if crawling > 50:
                raise MarchError(
                    f"the march came to a standstill at t = {t:.6g}, with steps of {h:.1e}: the "
                    "potential may be unbounded below, or its gradient grow too fast for the "
                    "tails of the initial law. Try a potential that grows, or a narrower start."
                )
            t = t_end if h == remaining else t + h
            now = after
        raise MarchError(
            f"max_steps={self.max_steps} steps were made and t = {t:.6g} of {t_end:.6g} reached; "
            "try a larger max_steps or tolerance."
        )

    @staticmethod
    def _stored(t: float, now: _State, family: Growing, march: _March, rejected: int) -> Step:
        record = march.record(now, rejected)
        return Step(t, family.embed(now.theta), family.embed_velocity(now.xi), record)

    def _asks_for_more(self, now: _State, equation) -> bool:
        """Whether the residual certifies errors faster than ``growth_rate`` nats a unit of time."""
        return now.problem.mean_square(now.residual) / (4 * equation.charge) > self.growth_rate

    def _grow(self, family: Growing, march: _March, now: _State) -> tuple[_March, _State]:
        """Wake layers, their features trained on the residual; T stays what it is."""
        family.embed(now.theta)
        problem, points = march.training_problem(now.theta), march.points
        residual = problem.linearization.law_velocity(now.xi) + problem.g
        family.wake()
        theta = family.active()
        march = _March(self, march.equation, family.awake, theta, march.generator, march.slowest)
        problem = march.training_problem(theta, points)
        theta = train_dormant(march.flow, problem, self.feature_iterations, residual)
        theta = march.reduction.same(theta)
        return march, march.evaluate(theta)


class _Diverged(ArithmeticError):
    """A trial step came to parameters that are not finite."""


class _State:
    """theta with its inner problem solved."""

    def __init__(self, problem: InnerProblem, solver):
        self.problem, self.theta = problem, problem.theta
        solution = solver.solve(problem)
        self.xi, self.residual, self.iterations = (
            solution.xi,
            solution.residual,
            solution.iterations,
        )


class _March:
    """What a step needs: points, solver, and the stiffness seen so far."""

    keep = 5
    n_training = 8192

    def __init__(self, scheme, equation, flow, theta, generator, slowest):
        self.equation, self.flow, self.generator = equation, flow, generator
        d, m = equation.d, flow.n_parameters(equation.d)
        self.d, self.device, self.dtype = d, theta.device, theta.dtype
        self.evaluations, self.t = 0, equation.time or 0.0
        self.metric = as_metric(scheme.metric)
        self.max_numbers = int(scheme.max_memory * 2**30 / 8)
        self.quadrature = flow.separable and equation.separable
        if self.quadrature:
            self.n = scheme.n_samples or max(256, 16 * m // d)
            x, weights = normal_grid(self.n, d)
            self.points = x.to(theta), weights.to(theta)
        else:
            # equations (n d) to unknowns: 6 to 12, or 4 where each row is a problem of its own;
            # maps of many parameters, solved without their metric, can afford twice as many
            share = 6 if m <= 600 else 12
            unknowns = 4 * (d + 1) if flow.affine else share * m / d
            if isinstance(flow, MixtureFlow):  # every component needs points of its own
                unknowns = max(unknowns, 128 * flow.n_components)
            enough = 2 ** math.ceil(math.log2(max(512, unknowns)))
            self.n = scheme.n_samples or min(8192, enough)
            self._draw()
        direct = scheme.solver == "direct" or (scheme.solver == "auto" and m <= 600)
        if flow.separable:
            solver, self.tolerance, damping = CoordinateSolver, 1e-5, 1e-8
        elif self.metric is not None:
            solver = partial(ProjectedSolver, metric=self.metric)
            self.tolerance, damping = 1e-5, 1e-8
        elif isinstance(flow, AffineFlow):
            solver, self.tolerance, damping = AffineSolver, 1e-5, 1e-8
        elif isinstance(flow, MixtureFlow):
            solver, self.tolerance, damping = MixtureSolver, 3e-4, 1e-4
        elif direct:
            solver, self.tolerance, damping = DirectSolver, 1e-5, 1e-8
        else:
            solver = partial(ConjugateGradientSolver, tolerance=scheme.cg_tolerance)
            self.tolerance, damping = 1e-3, 1e-4
        self.tolerance = scheme.tolerance or self.tolerance
        self.solver = solver(flow, d, damping if scheme.damping is None else scheme.damping)
        shared = getattr(self.solver, "over_processes", False)
        self.reduction = parallel.reduction() if shared else parallel.ALONE
        self.inexact = isinstance(self.solver, ConjugateGradientSolver)
        self.stiff = not (self.inexact or isinstance(self.solver, MixtureSolver))
        self.fewest_steps = 100 if flow.affine else 20 if self.stiff else 50
        if not self.stiff:
            # nothing to stabilise in a mixture; and with conjugate gradients stiffness cannot be
            # seen through the error of the linear solves
            self.integrators = [bogacki_shampine()]
        else:
            self.integrators = [dormand_prince(), Chebyshev(scheme.max_stages)]
        self.stiff_direction = None
        self.slowest = slowest
        self.age = 0

    def _draw(self):
        x = sobol_normal(self.n, self.d, draw_seed(self.generator))
        weights = torch.full((self.n,), 1 / self.n, dtype=self.dtype, device=self.device)
        self.points = x.to(weights), weights

    def problem(self, theta) -> InnerProblem:
        x, weights = self.points
        return InnerProblem(
            self.equation, self.flow, theta, x, weights, self.reduction, self.max_numbers
        )

    def training_problem(self, theta, points=None) -> InnerProblem:
        """A problem of few points in one piece, all of them on every process."""
        numbers = self.d + len(theta)  # for a point
        n = min(self.n_training, max(256, self.max_numbers // numbers))
        x, weights = (a[:n] for a in points or self.points)
        with self.reduction.together():
            return InnerProblem(
                self.equation, self.flow, theta, x, weights, max_numbers=n * numbers
            )

    def evaluate(self, theta, t: float | None = None) -> _State:
        self.evaluations += 1
        if not self.equation.steady:
            t = self.t if t is None else t
            self.equation.move_to(t, lambda n: crowd(self.flow, theta, self.d, n))
        if not torch.isfinite(theta).all():
            raise _Diverged
        return _State(self.problem(theta), self.solver)

    def resample(self, now: _State) -> _State:
        """The same theta on new points; a quadrature stays what it is.

        With conjugate gradients the points stay as long as the preconditioner does, at most
        ``keep`` steps, and as long for mixtures, which are marched in the same way. They also stay
        where the family holds the velocity: no points could give another answer, and among
        redundant parameters new ones would only pick another solution.
        """
        self.age += 1
        keep = not self.stiff and self.age < self.keep and not self.solver.stale
        if self.quadrature or keep:
            return now
        problem = now.problem
        if problem.mean_square(now.residual) < 1e-3 * problem.mean_square(problem.g):
            return now
        self._draw()
        self.age = 0
        if self.inexact:
            self.solver.factor = None
        return self.evaluate(now.theta)

    def step(self, integrator, now: _State, h: float, rho: float) -> tuple[_State, float]:
        """The state at t + h and its local error in the space of samples.

        A step so long that it ended nowhere, or that the potential was asked at absurd points,
        has an infinite error.
        """
        self.failure = None
        try:
            if self.equation.steady:
                theta, estimate = integrator.step(
                    lambda y: self.evaluate(y).xi, now.theta, now.xi, h, rho
                )
                after = self.evaluate(theta)
            else:
                after, estimate = self._step_in_time(integrator, now, h, rho)
        except PotentialError as failure:
            self.failure = failure
            return now, math.inf
        except (_Diverged, torch.linalg.LinAlgError):
            return now, math.inf
        return after, now.problem.displacement(estimate(after.xi))

    def _step_in_time(self, integrator, now: _State, h: float, rho: float):
        """A step of (theta, t), whose last component moves at rate one."""

        def joined(theta, last):
            return torch.cat([theta, theta.new_tensor([last])])

        y, estimate = integrator.step(
            lambda y: joined(self.evaluate(y[:-1], float(y[-1])).xi, 1.0),
            joined(now.theta, self.t),
            joined(now.xi, 1.0),
            h,
            rho,
        )
        after = self.evaluate(y[:-1], self.t + h)
        return after, lambda rate: estimate(joined(rate, 1.0))[:-1]

    def spectral_radius(self, now: _State) -> float:
        """Of d(theta')/d(theta), by a nonlinear power iteration that remembers its direction."""
        if not self.stiff:
            return 0.0
        first = self.stiff_direction is None
        direction = now.xi if first else self.stiff_direction
        size = float(direction.norm())
        if size == 0:
            return self.slowest
        direction, rho = direction / size, 0.0
        eps = 1e-6 * max(1.0, float(now.theta.norm()))
        for _ in range(50 if first else 5):
            change = (self.evaluate(now.theta + eps * direction).xi - now.xi) / eps
            before, rho = rho, float(change.norm())
            if rho <= self.slowest:
                return self.slowest
            direction = change / rho
            if abs(rho - before) < 0.05 * rho:
                break
        self.stiff_direction = direction
        return 1.2 * rho

    def record(self, now: _State, rejected: int) -> dict:
        problem = now.problem
        energy = {}
        if self.equation.has_energy:
            with self.reduction.together():
                value = self.equation.potential(problem.linearization.y)
            log_rho = log_normal(problem.x) - problem.linearization.log_det
            energy["free_energy"] = problem.mean(value + self.equation.beta * log_rho)
        evaluations, self.evaluations = self.evaluations, 0
        return {
            **energy,
            "residual": problem.mean_square(now.residual),
            "force": problem.mean_square(problem.g),
            "iterations": now.iterations,
            "evaluations": evaluations,
            "rejected": rejected,
            "tolerance": self.tolerance,
            "n_samples": self.n,
        }
