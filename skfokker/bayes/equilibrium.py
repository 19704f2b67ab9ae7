"""Reaching equilibrium by descending the free energy, not marching in time."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from ..schemes.base import Scheme, Step
from ..schemes.points import draw_seed, sobol_normal
from .calls import BudgetSpent


class FreeEnergyDescent(Scheme):
    r"""The equilibrium of the march without the march: theta that minimises H(theta) of (26).

    H decreases along the march (27) and rests where its gradient vanishes in theta, so its end
    point is also that of any other descent. Here: Adam on

        grad H = E[(dT/dtheta)^T g(T)],   g = grad V + beta grad log rho_theta,

    g carried pointwise through the layers as in ``LeastSquaresNested``. That estimate has no noise
    at all where rho_theta is the equilibrium (G. Roeder, Y. Wu, D. Duvenaud, "Sticking the
    landing", 2017), so that fresh scrambled Sobol points every iteration can reach it exactly.

    After every ``block`` iterations H is measured on ``n_test`` fixed points, at the average of
    theta over the second half of the block. Where it has fallen by less than ``tolerance`` the rate
    is divided by 3; the descent ends the third time, or as soon as E|g|^2 says that nothing is left
    to gain. The states between the first and the last mean
    nothing: only ask for the law at the horizon.

    Parameters
    ----------
    tolerance : float, default=1e-3
        In nats (units of beta).
    n_samples : int, default=512
        Fresh points an iteration.
    learning_rate : float, default=0.01
    block : int, default=50
    n_test : int, default=4096
    max_iterations : int, default=3000
    """

    def __init__(
        self,
        tolerance: float = 1e-3,
        n_samples: int = 512,
        learning_rate: float = 0.01,
        block: int = 50,
        n_test: int = 4096,
        max_iterations: int = 3000,
    ):
        self.tolerance = tolerance
        self.n_samples = n_samples
        self.learning_rate = learning_rate
        self.block = block
        self.n_test = n_test
        self.max_iterations = max_iterations

    def steps(self, equation, flow, theta, t_start, t_end, generator) -> Iterator[Step]:
        test = sobol_normal(self.n_test, equation.d, draw_seed(generator)).to(theta)

        def energy(theta: Tensor) -> float:
            with torch.no_grad():
                return float(equation.free_energy(flow, theta, test)) / equation.beta

        start = best = energy(theta)
        yield Step(t_start, theta, None, {"free_energy": start * equation.beta, "h": 0.0})
        best_theta, rate, plateaus, iterations = theta, self.learning_rate, 0, 0
        first, second = torch.zeros_like(theta), torch.zeros_like(theta)
        spent = False
        while plateaus < 3 and iterations < self.max_iterations and not spent:
            total, count = torch.zeros_like(theta), 0
            for k in range(self.block):
                try:
                    gradient, force = self._gradient(equation, flow, theta, generator)
                except BudgetSpent:
                    spent = True
                    break
                iterations += 1
                # the free energy above equilibrium is at most E|g|^2 / 2 where V is 1-convex
                if force < 1e-3 * self.tolerance * equation.beta:
                    total, count, plateaus = theta, 1, 3
                    break
                first = 0.9 * first + 0.1 * gradient
                second = 0.99 * second + 0.01 * gradient.square()
                mean = first / (1 - 0.9**iterations)
                size = (second / (1 - 0.99**iterations)).sqrt()
                theta = theta - rate * mean / (size + 1e-8)
                if k >= self.block // 2:
                    total, count = total + theta, count + 1
            if spent:
                break
            average = total / count
            try:
                now = energy(average)
            except BudgetSpent:
                break
            if not math.isfinite(now) or now > best + 1.0:
                # the step was too long: go back
                theta, first, second = best_theta, torch.zeros_like(theta), second
                rate, plateaus = rate / 3, plateaus + 1
                continue
            if best - now < self.tolerance:
                plateaus, rate = plateaus + 1, rate / 3
                theta = average
            if now < best:
                best, best_theta = now, average
        if iterations >= self.max_iterations and plateaus < 3:
            warnings.warn(
                f"The free energy was still falling after max_iterations={self.max_iterations}; "
                "try a larger number, or a larger tolerance.",
                UserWarning,
                stacklevel=2,
            )
        record = {
            "free_energy": best * equation.beta,
            "h": t_end - t_start,
            "iterations": iterations,
            "fallen": (start - best) * equation.beta,
            "at_rest": plateaus >= 3,
        }
        yield Step(t_end, best_theta, torch.zeros_like(best_theta), record)

    def _gradient(self, equation, flow, theta: Tensor, generator) -> tuple[Tensor, float]:
        """grad H (m,), and E|g|^2."""
        x = sobol_normal(self.n_samples, equation.d, draw_seed(generator)).to(theta)
        linearization = flow.linearize(theta, x)
        force = equation.driving_force(linearization.y, linearization.push_score(-x))
        mean_square = float(force.square().sum(1).mean())
        # a few points in a far tail must not decide the direction
        length = force.norm(dim=1, keepdim=True)
        cap = 10 * length.median() + 10.0
        force = force * (cap / length.clamp_min(1e-300)).clamp_max(1.0)
        return linearization.law_pull_back(force / len(x)), mean_square
