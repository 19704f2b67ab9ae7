"""Small parts for tests of everything around them: Runge-Kutta steps, conditional densities."""

import numpy as np
import torch

from skfokker import ParametricFokkerPlanck
from skfokker.flows import ConditionalFlow
from skfokker.schemes.base import Scheme, Step


class RungeKutta(Scheme):
    """Classical Runge-Kutta on the normal equations; ``stop_after`` presses Ctrl-C."""

    def __init__(self, n_steps=16, n_points=64, stop_after=None, with_velocity=True):
        self.n_steps = n_steps
        self.n_points = n_points
        self.stop_after = stop_after
        self.with_velocity = with_velocity

    def steps(self, equation, flow, theta, t_start, t_end, generator):
        d = equation.d
        x = torch.randn(self.n_points, d, generator=generator, dtype=torch.float64).to(theta)

        def rate(theta):
            linearization = flow.linearize(theta, x)
            g = equation.driving_force(linearization.y, linearization.push_score(-x))
            jacobian = linearization.jacobian()[0].reshape(g.numel(), -1)
            gram = jacobian.T @ jacobian
            gram = gram + 1e-12 * gram.diagonal().mean() * torch.eye(len(gram)).to(gram)
            return torch.linalg.solve(gram, -jacobian.T @ g.reshape(-1))

        h = (t_end - t_start) / self.n_steps
        for k in range(self.n_steps + 1):
            t = t_end if k == self.n_steps else t_start + k * h
            first = rate(theta)
            free_energy = equation.free_energy(flow, theta, x)
            record = {"h": h, "free_energy": free_energy, "residual": torch.tensor(0.0)}
            yield Step(t, theta, first if self.with_velocity else None, record)
            if k == self.stop_after:
                raise KeyboardInterrupt
            second = rate(theta + h / 2 * first)
            third = rate(theta + h / 2 * second)
            fourth = rate(theta + h * third)
            theta = theta + h / 6 * (first + 2 * second + 2 * third + fourth)


def estimator(flow=None, scheme=None, **params):
    """An estimator with a seed and, unless told otherwise, the stand-in scheme."""
    scheme = RungeKutta() if scheme is None else scheme
    return ParametricFokkerPlanck(flow, scheme, **{"random_state": 0} | params)


def conditional(d, kind="polynomials", order=None, half=6.0, together=None):
    """A small ConditionalFlow, each coordinate given the two before it, of splines the one before.

    Of ``together`` coordinates, where that is given, those of one piece are tied and no others.
    """
    own = ("polynomials", -half, half, 4, 2.0)
    feature = ("polynomials", -half, half, 4)
    if kind == "splines":
        own = ("splines", np.linspace(-half, half, 9).tolist(), half / 8)
        feature = ("splines", np.linspace(-half, half, 5).tolist())
    groups = []
    for i in range(d):
        first = 0 if together is None else i - i % together
        before = list(range(max(first, i - 2), i))
        if kind == "splines":
            parents = tuple(before[-1:])
            groups.append([(parents, [list(range(7)) for _ in parents], 11)])
            continue
        products = [((), [], 4)] + [((j,), [[1, 2, 3]], 2) for j in before]
        if len(before) == 2:
            products.append((tuple(before), [[1], [1]], 1))
        groups.append(products)
    return ConditionalFlow([own] * d, [feature] * d, groups, order)
