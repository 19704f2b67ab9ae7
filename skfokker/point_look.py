"""What a march misses the equation by at one time, on fresh points."""

from __future__ import annotations

import numpy as np
import torch
from scipy import integrate, optimize, stats
from torch import Tensor

from .equation import FokkerPlanck
from .imbalance import Imbalance
from .parallel import ALONE, Reduction, reduction
from .potentials import PotentialError
from .schemes.normal_equations import InnerProblem
from .schemes.points import crowd, draw_seed, tail_normal
from .solenoidal import Points, Solenoidal, interacting_pairs
from .trajectory import Trajectory

_NEGLIGIBLE = 1e-3  # nats of a residual over the whole span that is left as it is
_LOOKS = 4  # times that each of them looks at


class Tail:
    """A smooth cut of the far tail: rho_main = rho_theta h(T^{-1}(y)) / (1 - p).

    log h = -2 (|x| - R)^2 beyond the radius R of the reference, and 0 within. Carried along by the
    tangent of the map, h stays the same function of x, and rho_main moves with that velocity; its
    score has (dT/dx)^{-T} grad log h added.

    Attributes
    ----------
    radius : float
    mass : float
        p = E[1 - h].
    """

    def __init__(self, d: int, mass: float = 1e-3):
        def left_out(radius):
            def integrand(u):
                return -np.expm1(-2 * u**2) * stats.chi.pdf(radius + u, d)

            return integrate.quad(integrand, 0, 12)[0]

        start = stats.chi.ppf(1 - mass, d)
        self.radius = optimize.brentq(lambda r: left_out(r) - mass, max(start - 3, 0.0), start)
        self.mass = left_out(self.radius)

    def at(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """h / (1 - p) (n,) and grad log h (n, d) at reference points x (n, d)."""
        size = x.norm(dim=1)
        beyond = (size - self.radius).clamp(min=0.0)
        slope = -4 * (beyond / size.clamp(min=1e-300))[:, None] * x
        return (-2 * beyond.square()).exp() / (1 - self.mass), slope


class PointLook:
    """What a march misses the equation by at one time, on fresh points."""

    def __init__(self, trajectory, equation, generator, interacts, n_samples):
        self.trajectory, self.equation, self.generator = trajectory, equation, generator
        self.n_samples, self.n_pointwise = n_samples, n_samples // 2
        flow, d = trajectory.flow, trajectory.d
        self.imbalance = None
        if not equation.has_walls:
            self.imbalance = Imbalance(equation, flow, generator, interacts)
        # where points keep their place in the reference
        self.tail = None if flow.moves_otherwise else Tail(d)
        self.span = None
        # separable maps move by gradient fields alone, and laws of their own velocity nearly so
        if d > 1 and not (flow.separable or flow.moves_otherwise):
            self.span = Solenoidal(d, None if interacts is None else interacting_pairs(interacts))

    def _residual(
        self, t: float, processes: Reduction, n: int
    ) -> tuple[InnerProblem, Tensor, Points, Tensor]:
        trajectory = self.trajectory
        theta, dtheta = (torch.as_tensor(a, device=trajectory.device) for a in trajectory.at(t))
        x, weights = tail_normal(n, trajectory.d, draw_seed(self.generator))
        x, weights = x.to(theta), weights.to(theta)
        # points of the law that the march has not seen: their noise adds to the mean square
        self.equation.move_to(t, lambda n: self._crowd(theta, n))
        problem = InnerProblem(self.equation, trajectory.flow, theta, x, weights, processes)
        here = problem.linearization
        residual = here.law_velocity(dtheta) + problem.g
        points = Points(theta, here, problem.x, problem.weights, residual)
        return problem, dtheta, points, weights

    def _crowd(self, theta: Tensor, n: int) -> Tensor:
        flow, d = self.trajectory.flow, self.trajectory.d
        return crowd(flow, theta, d, n, draw_seed(self.generator))

    def turning(self, start: float, end: float, length: float) -> Tensor | None:
        """Coefficients of a field to take off the residual between two times, or None.

        It is fitted at a few times and judged at others.
        """
        if self.span is None:
            return None
        u = torch.rand(_LOOKS, dtype=torch.float64, generator=self.generator).numpy()
        at = start + (end - start) * (np.arange(_LOOKS) + u) / _LOOKS
        with reduction().together():  # all points on every process
            looks = [self._residual(t, ALONE, self.n_samples // 2) for t in at]
            whole = np.mean([self._charge(look[0], look[2].residual) for look in looks])
            if not whole * length / (4 * self.equation.charge) > _NEGLIGIBLE:
                return None
            points = [points for _, _, points, _ in looks]
            return self.span.fit(points[::2], points[1::2])

    def _charge(self, problem: InnerProblem, residual: Tensor) -> float:
        """The mean square of a residual in the norm of the equation."""
        return problem.mean_square(self.equation.charged(problem.linearization.y, residual))

    def at(
        self, t: float, turning: Tensor | None
    ) -> tuple[float, float, float, float, float, float]:
        """E|r|^2, E|w|^2, E|eps|, E eps, and E|r|^2 of the law without its tail, at time t; and
        E|r|^2 in the plain norm, where the drift depends on the law."""
        problem, dtheta, points, weights = self._residual(t, reduction(), self.n_samples)
        whole = charged = self._charge(problem, points.residual)
        if turning is not None:
            charged = self._charge(problem, points.residual - self.span.field(points, turning))
        most = np.nan
        if self.tail is not None:
            share, slope = self.tail.at(points.x)
            y = points.at.y
            pull = self.equation.spread(y, points.at.solve_transposed(slope))
            size = self.equation.charged(y, points.residual + pull).square().sum(1)
            most = problem.mean(size * share)
        plain = problem.mean_square(points.residual) if self.equation.mean_field else np.nan
        if self.imbalance is None:
            return whole, charged, np.nan, np.nan, most, plain
        # the first points of a set are a smaller set
        n = min(self.imbalance.n_points(self.n_pointwise), self.n_samples)
        x, weights = problem.all_x[:n], weights[:n] * (self.n_samples / n)
        try:
            if reduction().size == 1:
                y = problem.linearization.y[:n]
            else:  # where each process holds some of them
                y = self.trajectory.flow.forward(problem.theta, x)[0]
            eps = self.imbalance.at(problem.theta, dtheta, y)
        except PotentialError:  # of a neighbour out of reach
            return whole, charged, np.nan, np.nan, most, plain
        return whole, charged, float(weights @ eps.abs()), float(weights @ eps), most, plain


def mean_residual(
    trajectory: Trajectory,
    equation: FokkerPlanck,
    t: float,
    n_samples: int,
    generator: torch.Generator,
) -> float:
    """E|r|^2 at time t on fresh points, half of them in the tails, where |r|^2 is largest."""
    theta, dtheta = (torch.as_tensor(a, device=trajectory.device) for a in trajectory.at(t))
    x, weights = tail_normal(n_samples, trajectory.d, draw_seed(generator))
    x, weights = x.to(theta), weights.to(theta)
    equation.move_to(t, lambda n: crowd(trajectory.flow, theta, trajectory.d, n))
    problem = InnerProblem(equation, trajectory.flow, theta, x, weights, reduction())
    residual = problem.linearization.law_velocity(dtheta) + problem.g
    return problem.mean_square(equation.charged(problem.linearization.y, residual))
