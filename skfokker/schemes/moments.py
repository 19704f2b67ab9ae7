r"""Linear equations keep Gaussians Gaussian: two linear equations for mean and covariance.

With b = A x + c - K (x - E[X]) and D the same everywhere (all of them functions of time)

    m' = A m + c ,      S' = (A - K) S + S (A - K)^T + 2 D .

S = X Y^{-1} with (X, Y)' = [[A - K, 2 D], [0, -(A - K)^T]] (X, Y), so that a step is one matrix
exponential: exact where the coefficients are constant (C. F. Van Loan, "Computing integrals
involving the matrix exponential", IEEE Transactions on Automatic Control 23 (1978)), and of order
four by the Magnus series where they are not (S. Blanes, F. Casas, J. A. Oteo, J. Ros, "The Magnus
expansion and some of its applications", Physics Reports 470 (2009)).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .base import Scheme, Step
from .errors import MarchError

_REACH = 8.0  # norm of a generator times the step, at most: the halves of the exponential grow
_NODES = (0.5 - math.sqrt(3) / 6, 0.5 + math.sqrt(3) / 6)


class GaussianMoments(Scheme):
    """Mean and covariance of a Gaussian under a linear equation, for affine maps.

    Parameters
    ----------
    tolerance : float, default=1e-7
        Local error of a step, and of the interpolation between two of them, in standard deviations
        of the law.
    max_step : float or None, default=None
        Largest step; None allows a twentieth of the span.
    first_step : float, default=1e-3
        First step, relative to the span.
    max_steps : int, default=20000
        Give up after that many steps.

    Raises
    ------
    MarchError
        If the step size collapses, or ``max_steps`` is reached.
    """

    any_equation = True

    def __init__(
        self,
        tolerance: float = 1e-7,
        max_step: float | None = None,
        first_step: float = 1e-3,
        max_steps: int = 20000,
    ):
        self.tolerance = tolerance
        self.max_step = max_step
        self.first_step = first_step
        self.max_steps = max_steps

    def steps(self, equation, flow, theta, t_start, t_end, generator):
        march = Moments(equation, flow, theta)
        span = t_end - t_start
        largest = self.max_step or span / 20
        t, h, rejected = t_start, min(largest, self.first_step * span), 0
        now = march.state(t, *march.moments(theta))
        for _ in range(self.max_steps):
            yield march.stored(t, now, rejected)
            if t >= t_end:
                return
            rejected = 0
            while True:
                remaining = t_end - t
                h = min(h, march.longest(now))
                step = remaining if h > 0.999 * remaining else min(h, (remaining + h) / 2)
                after, error = march.step(t, now, step)
                error /= self.tolerance
                factor = 0.2 if not math.isfinite(error) else 0.9 * max(error, 1e-8) ** -0.2
                h = min(largest, step * min(4.0, max(0.2, factor)))
                if error <= 1:
                    break
                rejected += 1
                if step < 1e-12 * span:
                    raise MarchError(
                        f"the step size fell to {step:.1e} at t = {t:.6g}: the coefficients of the "
                        "linear equation may jump there. Fit up to that time, and go on with "
                        "warm_start=True."
                    )
            t = t_end if step == remaining else t + step
            now = after
        raise MarchError(
            f"max_steps={self.max_steps} steps were made and t = {t:.6g} of {t_end:.6g} reached; "
            "try a larger max_steps or tolerance."
        )


class MomentsState:
    """Mean and covariance with their rates, and theta with its own."""

    def __init__(self, mean, covariance, rates, theta, velocity, generator):
        self.mean, self.covariance, self.rates = mean, covariance, rates
        self.theta, self.velocity, self.generator = theta, velocity, generator


class Moments:
    """Steps of mean and covariance, and the parameters that belong to them."""

    def __init__(self, equation, flow, theta):
        self.equation, self.flow, self.d = equation, flow, equation.d
        self.like = theta

    def moments(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance of a law."""
        mean, root = self._root(theta)
        return mean, root @ root.T

    def _basis(self, theta: Tensor) -> Tensor:
        return torch.cat([torch.zeros(1, self.d), torch.eye(self.d)]).to(theta)

    def _root(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (d,) and matrix (d, d) of the map."""
        values = self.flow.forward(theta, self._basis(theta))[0]
        return values[0], (values[1:] - values[0]).T

    def terms(self, t: float, mean: Tensor, covariance: Tensor) -> tuple[Tensor, ...]:
        """A - K, A, b at the mean, and D."""
        size = covariance.diagonal().sqrt()
        self.equation.move_to(t)
        A, value, K, D = self.equation.linear_terms(t, mean, size)
        return A - K, A, value, D

    def state(self, t: float, mean: Tensor, covariance: Tensor) -> MomentsState:
        B, A, value, D = self.terms(t, mean, covariance)
        change = B @ covariance
        change = change + change.T + 2 * D
        root = torch.linalg.cholesky(covariance)
        theta = self.flow.with_affine(self.flow.init(self.d).to(mean), mean, root)
        rate = self._rate(theta, value, change)
        return MomentsState(mean, covariance, (value, change), theta, rate, B)

    def _rate(self, theta: Tensor, value: Tensor, change: Tensor) -> Tensor:
        """theta' of the law whose moments move with (value, change)."""
        d = self.d
        root = self._root(theta)[1]
        inner = torch.linalg.solve_triangular(root, change, upper=False)
        inner = torch.linalg.solve_triangular(root, inner.T, upper=False)
        half = inner.tril(-1) + torch.diag(inner.diagonal() / 2)
        moved = root @ half  # of the Cholesky factor
        by = moved.diagonal() / root.diagonal()
        if self.flow.diagonal:
            return torch.cat([value, by])
        i, j = torch.triu_indices(d, d, 1, device=theta.device)
        lower = root / root.diagonal()
        lower = moved / root.diagonal() - lower * by
        return torch.cat([value, by, torch.zeros_like(lower[i, j]), lower[j, i]])

    def longest(self, now: MomentsState) -> float:
        """The longest step whose exponential is computed without loss."""
        size = float(torch.linalg.matrix_norm(now.generator, 1))
        return _REACH / size if size > 0 else math.inf

    def step(self, t: float, now: MomentsState, h: float) -> tuple[MomentsState, float]:
        """The state at t + h, and its error and that between the two, in standard deviations."""
        try:
            mean, covariance = self._advance(t, now, h, 4)
            rough_mean, rough = self._advance(t, now, h, 2)
            after = self.state(t + h, mean, covariance)
            root = torch.linalg.cholesky(covariance)
        except torch.linalg.LinAlgError:
            return now, math.inf
        if not torch.isfinite(after.theta).all():
            return now, math.inf
        error = self._size(root, mean - rough_mean, covariance - rough)
        # order two is off by h^3, order four by h^5: (the difference)^(5/3) has the right power
        error = error ** (5 / 3)
        error = max(error, self._between(t, now, after, h, root))
        return after, error

    def _size(self, root, mean, covariance) -> float:
        """Of a change of moments, in standard deviations."""
        shift = torch.linalg.solve_triangular(root, mean[:, None], upper=False)
        inner = torch.linalg.solve_triangular(root, covariance, upper=False)
        inner = torch.linalg.solve_triangular(root, inner.T, upper=False)
        return float(shift.norm() + inner.norm() / 2)

    def _between(
        self, t: float, now: MomentsState, after: MomentsState, h: float, root: Tensor
    ) -> float:
        """Error of the cubic interpolant of theta at the middle, from what it should move like."""
        theta = (now.theta + after.theta) / 2 + h * (now.velocity - after.velocity) / 8
        rate = 1.5 * (after.theta - now.theta) / h - (now.velocity + after.velocity) / 4
        mean, covariance = self.moments(theta)
        B, _, value, D = self.terms(t + h / 2, mean, covariance)
        change = B @ covariance
        wanted = self._rate(theta, value, change + change.T + 2 * D)
        moved = self.flow.linearize(theta, self._basis(theta)).jvp(rate - wanted)
        return h / 4 * self._gap(root, moved)

    @staticmethod
    def _gap(root, moved) -> float:
        """Root mean square of a change of the affine map, in standard deviations."""
        matrix = (moved[1:] - moved[0]).T
        both = torch.cat([moved[0][:, None], matrix], 1)
        return float(torch.linalg.solve_triangular(root, both, upper=False).norm())

    def _advance(self, t: float, now: MomentsState, h: float, order: int) -> tuple[Tensor, Tensor]:
        """Mean and covariance at t + h by the Magnus series of that order."""
        mean, covariance = now.mean, now.covariance
        nodes = (0.5,) if order == 2 else _NODES
        at = [self._generators(t + c * h, mean, covariance) for c in nodes]
        if order == 2:
            first, second = (h * a for a in at[0])
        else:
            first, second = (
                h / 2 * (a + b) - math.sqrt(3) / 12 * h * h * (a @ b - b @ a)
                for a, b in zip(*at, strict=True)
            )
        shift = torch.linalg.matrix_exp(first)[:-1, -1]
        d = self.d
        flow = torch.linalg.matrix_exp(second)
        top = flow[:d, :d] @ covariance + flow[:d, d:]
        bottom = flow[d:, d:]
        after = torch.linalg.solve(bottom.T, top.T).T
        return mean + shift, (after + after.T) / 2

    def _generators(self, t, mean, covariance) -> tuple[Tensor, Tensor]:
        """That of (x - mean, 1), and that of (X, Y)."""
        B, A, value, D = self.terms(t, mean, covariance)
        d = self.d
        first = A.new_zeros(d + 1, d + 1)
        first[:d, :d], first[:d, d] = A, value
        second = A.new_zeros(2 * d, 2 * d)
        second[:d, :d], second[:d, d:], second[d:, d:] = B, 2 * D, -B.T
        return first, second

    def stored(self, t: float, now: MomentsState, rejected: int) -> Step:
        value, change = now.rates
        record = {
            "speed": self._size(torch.linalg.cholesky(now.covariance), value, change),
            "rejected": rejected,
        }
        return Step(t, now.theta, now.velocity, record)
