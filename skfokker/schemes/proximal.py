"""The semi-implicit step (45), its minimum found by Gauss-Newton."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from ..equation import log_normal
from ..potentials import PotentialError
from .base import Scheme, Step
from .errors import MarchError
from .features import train_dormant
from .normal_equations import InnerProblem
from .points import draw_seed, normal_grid, sobol_normal
from .projected import as_metric


class SemiImplicitNested(Scheme):
    r"""The proximal step (45) of the paper, its inner maximum in closed form.

    .. math:: \theta_{k+1} = \arg\min_\theta \; E\,|T_\theta - T_k|_M^2 + 2 h H(\theta), \qquad
       \max_\varphi E[2 \nabla\varphi(T_k) \cdot (T_\theta - T_k)] - E|\nabla\varphi(T_k)|^2
       = E|P_k (T_\theta - T_k)|^2

    with M the identity (relaxed metric: no dual at all) or (1 - eps) P_k + eps, P_k being the
    projection on the gradients of a span of dual potentials at T_k. The minimum is found by
    Gauss-Newton with the positive part of the curvature of the three terms: M / h,
    :math:`(\nabla^2 V)_+`, and :math:`\beta E|\nabla_y v|^2` for the entropy, its second variation
    along a gradient field v. One factorisation serves as long as the corrections shrink fast, over
    many time steps where the law moves smoothly, and Levenberg-Marquardt damping makes the
    objective fall at every correction.

    First order in h (Theorems 12 and 33). The free energy of the points of a step decreases in
    that step, however long it is.

    The expectations are a quadrature where V is a sum over coordinates and the map separable.
    Elsewhere they are means over scrambled Sobol points, shifted and scaled to the moments of
    N(0, I): an affine map in a quadratic potential then has no error of sampling.

    Parameters
    ----------
    step : float, default=0.005
        Largest time step h; the march is divided into equal ones.
    metric : {"relaxed", "projected"} or ProjectedMetric, default="relaxed"
        What displacements are measured by. A rotation on top of an expansion can hide it from
        the projected metric: its ``blend`` has to be above h times the rate of expansion.
    n_samples : int or None, default=None
        Points of the expectation. None takes 16 a parameter of a coordinate (separable case),
        else enough for 12 to 24 equations an unknown, from 1024 to 8192.
    resample : bool, default=True
        New Sobol points for every step. False keeps the first ones.
    damping : float or None, default=None
        Length of a unit of theta itself in the metric, relative to the mean of its diagonal. None
        takes 1e-8 for affine and separable maps and 1e-4 for others: without it, redundant
        parameters run off to sharp features that fall between the points.
    tolerance : float, default=1e-4
        A time step ends with the correction that moves the samples less than this, relative to
        all of its displacement so far, root mean square.
    max_iterations : int, default=30
        Corrections in one time step, at most.
    feature_iterations : int, default=60
        L-BFGS iterations that train the hidden units of triangular layers on the initial
        velocity, where the map starts at the identity.

    Raises
    ------
    ValueError
        Where a parameter is not one of those offered.
    MarchError
        If no correction, however short, decreases the objective.

    Warns
    -----
    ConvergenceWarning
        If ``max_iterations`` ended some time step, short of the minimum of (45).

    Notes
    -----
    The Jacobian dT/dtheta is explicit, and the entropy's curvature takes d more of them, by
    differences: a factorisation costs O(n d^2 m^2 + m^3). It is meant for a few hundred
    parameters, or for separable maps, whose coordinates are taken one by one.
    """

    def __init__(
        self,
        step: float = 0.005,
        metric="relaxed",
        n_samples: int | None = None,
        resample: bool = True,
        damping: float | None = None,
        tolerance: float = 1e-4,
        max_iterations: int = 30,
        feature_iterations: int = 60,
    ):
        self.step = step
        self.metric = metric
        self.n_samples = n_samples
        self.resample = resample
        self.damping = damping
        self.tolerance = tolerance
        self.max_iterations = max_iterations
        self.feature_iterations = feature_iterations

    def steps(self, equation, flow, theta, t_start, t_end, generator):
        self._validate()
        march = _March(self, equation, flow, theta, generator)
        n_steps = max(1, math.ceil((t_end - t_start) / self.step - 1e-9))
        h, short = (t_end - t_start) / n_steps, []
        theta = train_dormant(flow, march.problem(theta), self.feature_iterations)
        record = {"h": 0.0, "free_energy": march.free_energy(theta), "iterations": 0}
        yield Step(t_start, theta, None, record)
        for k in range(1, n_steps + 1):
            t = t_end if k == n_steps else t_start + k * h
            if k > 1 and self.resample:
                march.draw()
            theta, record = march.advance(theta, h, t)
            if not record["converged"]:
                short.append(record["correction"])
            yield Step(t, theta, None, record)
        if short:
            warnings.warn(
                f"max_iterations={self.max_iterations} ended {len(short)} of {n_steps} time steps, "
                f"at corrections of up to {max(short):.1e} of the step's displacement where "
                f"tolerance={self.tolerance:g} was asked for; try a smaller step, a larger "
                "damping, or more iterations.",
                ConvergenceWarning,
                stacklevel=2,
            )

    def _validate(self):
        if not (self.step > 0 and math.isfinite(self.step)):
            raise ValueError(f"step must be positive and finite, got {self.step!r}; try 0.005.")
        if not self.tolerance > 0:
            raise ValueError(f"tolerance must be positive, got {self.tolerance!r}; try 1e-4.")
        if self.damping is not None and not self.damping >= 0:
            raise ValueError(f"damping must be None or at least 0, got {self.damping!r}; try 1e-4.")
        if not self.max_iterations >= 1:
            raise ValueError(
                f"max_iterations must be at least 1, got {self.max_iterations!r}; try 30."
            )
        if self.n_samples is not None and not self.n_samples >= 1:
            raise ValueError(f"n_samples must be None or at least 1, got {self.n_samples!r}.")
        as_metric(self.metric)


class _March:
    """The points, and the minimisation of one time step."""

    def __init__(self, scheme, equation, flow, theta, generator):
        self.scheme, self.equation, self.flow, self.generator = scheme, equation, flow, generator
        self.like, self.d = theta, equation.d
        m = flow.n_parameters(self.d)
        self.by_coordinate = flow.separable and equation.separable
        # tangents of a separable map are gradient fields: the two metrics are the same
        self.metric = None if flow.separable else as_metric(scheme.metric)
        simple = flow.separable or flow.affine
        self.damping = (1e-8 if simple else 1e-4) if scheme.damping is None else scheme.damping
        self.model = None  # serves for as many time steps as it can
        self.caution = 0.0  # of Levenberg and Marquardt; lives from one time step to the next
        if self.by_coordinate:
            x, weights = normal_grid(scheme.n_samples or max(256, 16 * m // self.d), self.d)
            self.points = x.to(theta), weights.to(theta)
        else:
            enough = 2 ** math.ceil(math.log2(max(1024, 12 * m / self.d)))
            self.n = scheme.n_samples or min(8192, enough)
            self.draw()

    def draw(self) -> None:
        """New points with the first two moments of N(0, I); a quadrature stays what it is."""
        if self.by_coordinate:
            return
        x = sobol_normal(self.n, self.d, draw_seed(self.generator)).to(self.like)
        if self.n > self.d:
            x = x - x.mean(0)
            root = torch.linalg.cholesky(x.T @ x / self.n)
            x = torch.linalg.solve_triangular(root, x.T, upper=False).T
        self.points = x, torch.full((self.n,), 1 / self.n).to(x)

    def problem(self, theta) -> InnerProblem:
        return InnerProblem(self.equation, self.flow, theta, *self.points)

    @torch.no_grad()
    def free_energy(self, theta) -> float:
        x, weights = self.points
        y, log_det = self.flow.forward(theta, x)
        return float(_energy(self.equation, x, weights, log_det, self.equation.potential(y)))

    @torch.no_grad()
    def advance(self, theta, h, t) -> tuple[Tensor, dict]:
        """theta_{k+1} of (45) from theta_k, and the record of the step."""
        scheme, objective = self.scheme, _Objective(self, theta, h)
        now = start = objective(theta)
        model, fresh, factors, refused = self.model, False, 0, 0
        last, size, converged, iterations = math.inf, math.inf, False, 0
        while iterations < scheme.max_iterations and not converged:
            if model is None:
                model, fresh, factors = self._model(objective, now.theta), True, factors + 1
            correction = -model.solve(now.slope, self.caution)
            share = 0.0
            try:
                trial = objective(now.theta + correction)
                share = now.decrease(trial, correction)
            except PotentialError:
                pass  # so far out that V is not finite
            if not share > 0.1:
                if not fresh:  # the model is that of another theta
                    model, last = None, math.inf
                    continue
                self.caution, refused = max(8 * self.caution, 1e-8), refused + 1
                if refused > 60:
                    raise MarchError(
                        f"no correction decreases the objective (45) at t = {t:.6g}: the map may "
                        "have degenerated, or the potential be rough. Try a step smaller than "
                        f"{h:.3g}, a larger damping, or more n_samples."
                    )
                continue
            iterations, moved = iterations + 1, objective.distance(trial.y, start.y)
            size = objective.distance(trial.y, now.y) / max(moved, 1e-12 * objective.spread)
            now, cautious = trial, self.caution > 1e-3
            converged = size <= scheme.tolerance and not cautious
            converged = converged or moved <= 1e-12 * objective.spread
            if share > 0.7:
                self.caution /= 5
            if share < 0.7 or size > 0.3 * last:
                model = None
            last, fresh, self.model = size, False, model
        return now.theta, {
            "h": h,
            "free_energy": now.energy,
            "decrease": start.energy - now.energy,  # on the same points
            "distance": moved,
            "iterations": iterations,
            "factorisations": factors,
            "correction": size,
            "converged": converged,
        }

    def _model(self, objective, theta):
        """The Gauss-Newton matrix at theta."""
        problem = self.problem(theta)
        if self.by_coordinate:
            index = self.flow.coordinate_index(self.d).to(theta.device)
            blocks = self._by_coordinate(problem, objective.h)
        else:
            index = torch.arange(len(theta), device=theta.device)[None]
            blocks = self._dense(problem, objective.metric, objective.h)[None]
        return _Model(blocks, index, objective.stiffness)

    def _dense(self, problem, metric, h):
        x, at, d = problem.x, problem.linearization, self.d
        jacobian, slope = at.law_jacobian(), at.by_points()  # (n, d, m), (n, d, d)
        values, vectors = torch.linalg.eigh(self._hessian(at.y, problem.spread()))
        rate = 1 / h if metric is None else metric.blend / h
        root = (values.clamp_min(0) + rate).sqrt() * problem.weights.sqrt()[:, None]
        matrix = _gram(root[:, :, None] * (vectors.mT @ jacobian))
        if metric is not None:
            rows = metric.coordinates(jacobian.flatten(0, 1))
            matrix = matrix + (1 - metric.blend) / h * rows.T @ rows
        shift = 1e-4 * problem.spread() / math.sqrt(d)
        root = (self.equation.beta * problem.weights).sqrt()[:, None, None] / shift
        for direction in torch.linalg.inv(slope).unbind(2):  # dx that moves y along one axis
            beside = self.flow.linearize(problem.theta, x + shift * direction).law_jacobian()
            matrix = matrix + _gram(root * (beside - jacobian))
        return matrix

    def _by_coordinate(self, problem, h):
        at, weights = problem.linearization, problem.weights
        jacobian = at.coordinate_jacobian()  # (n, d, p)
        shift = 1e-4 * problem.spread() / math.sqrt(self.d)
        gradient = self.equation.potential.value_and_grad
        curvature = (gradient(at.y + shift)[1] - gradient(at.y - shift)[1]) / (2 * shift)
        moved = problem.x + shift / at.coordinate_slope()
        beside = self.flow.linearize(problem.theta, moved).coordinate_jacobian()
        root = ((curvature.clamp_min(0) + 1 / h) * weights[:, None]).sqrt()[:, :, None]
        bend = (beside - jacobian) * (self.equation.beta * weights).sqrt()[:, None, None] / shift
        rows = torch.cat([root * jacobian, bend]).transpose(0, 1)  # (d, 2 n, p)
        return rows.mT @ rows

    def _hessian(self, y, spread) -> Tensor:
        """Hess V (n, d, d) by central differences of grad V."""
        shift = 1e-4 * spread / math.sqrt(self.d)
        gradient = self.equation.potential.value_and_grad
        columns = [
            (gradient(y + shift * e)[1] - gradient(y - shift * e)[1]) / (2 * shift)
            for e in torch.eye(self.d).to(y)
        ]
        hessian = torch.stack(columns, 2)
        return (hessian + hessian.mT) / 2


class _Objective:
    """distance(T_theta, T_k)^2 / 2h + H on the points of one step, and its gradient."""

    def __init__(self, march: _March, theta: Tensor, h: float):
        self.equation, self.flow, self.h = march.equation, march.flow, h
        problem = march.problem(theta)
        self.x, self.weights, self.theta = problem.x, problem.weights, theta
        self.y = problem.linearization.y
        self.spread = max(problem.spread(), 1e-300)
        self.metric = None if march.metric is None else march.metric.at(problem)
        self.stiffness = 0.0
        if march.damping:
            jacobian = problem.linearization.law_jacobian()
            trace = float(jacobian.square().sum((1, 2)) @ self.weights)
            self.stiffness = march.damping * trace / (len(theta) * h)

    def distance(self, y: Tensor, other: Tensor) -> float:
        """Root mean square distance of two images of the points."""
        return float((y - other).square().sum(1) @ self.weights) ** 0.5

    def __call__(self, theta: Tensor) -> _Point:
        weights, equation = self.weights, self.equation
        with torch.enable_grad():
            theta = theta.detach().requires_grad_()
            y, log_det = self.flow.forward(theta, self.x)
            value, gradient = equation.potential.value_and_grad(y.detach())
            moved = y.detach() - self.y
            pull = moved if self.metric is None else self.metric.apply(moved)
            force = (pull / self.h + gradient) * weights[:, None]
            along = (force * y).sum() - equation.beta * log_det @ weights
            (slope,) = torch.autograd.grad(along, theta)
        theta, y, log_det = theta.detach(), y.detach(), log_det.detach()
        energy = float(_energy(equation, self.x, weights, log_det, value))
        gap = theta - self.theta
        length = float((pull * moved).sum(1) @ weights) / (2 * self.h)
        length += 0.5 * self.stiffness * float(gap @ gap)
        return _Point(theta, y, energy, energy + length, slope + self.stiffness * gap)


@dataclass(frozen=True)
class _Point:
    """One theta: its samples, its free energy, the objective and the objective's gradient."""

    theta: Tensor
    y: Tensor
    energy: float
    value: float
    slope: Tensor

    def decrease(self, other: _Point, correction: Tensor) -> float:
        """What the objective falls by, as a share of what its quadratic model promises."""
        promised = -0.5 * float(self.slope @ correction)
        fall = self.value - other.value
        if promised < 1e-8 * max(1.0, abs(self.value)):
            # values are all rounding here; the trapezoidal rule of the slopes has none
            fall = -0.5 * float((self.slope + other.slope) @ correction)
        if promised <= 0:
            return float(promised == 0 and fall == 0)
        return fall / promised if math.isfinite(fall) else 0.0


class _Model:
    """Blocks (groups, p, p) of the Gauss-Newton matrix, and where they stand in theta."""

    def __init__(self, blocks: Tensor, index: Tensor, stiffness: float):
        diagonal = blocks.diagonal(dim1=1, dim2=2)
        self.unit = diagonal.mean(1, keepdim=True).expand_as(diagonal)
        self.blocks = blocks + torch.diag_embed(torch.full_like(diagonal, stiffness))
        self.index, self.damping = index, math.nan

    def solve(self, slope: Tensor, damping: float) -> Tensor:
        """(B + damping * mean diagonal)^{-1} slope."""
        if damping != self.damping:
            self.damping = damping
            for rounding in (1e-13, 1e-10, 1e-7):
                shift = max(damping, rounding) * self.unit
                self.factor, info = torch.linalg.cholesky_ex(self.blocks + torch.diag_embed(shift))
                if not info.any():
                    break
        found = torch.zeros_like(slope)
        rhs = slope[self.index][:, :, None]
        found[self.index] = torch.cholesky_solve(rhs, self.factor)[:, :, 0]
        return found


def _energy(equation, x, weights, log_det, value) -> Tensor:
    """H of (26) on weighted points."""
    return (value + equation.beta * (log_normal(x) - log_det)) @ weights


def _gram(rows: Tensor) -> Tensor:
    """Of rows (n, d, m), the sum over n and d."""
    rows = rows.flatten(0, 1)
    return rows.T @ rows
