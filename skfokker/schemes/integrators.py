"""One step of theta' = f(theta): Dormand-Prince where it is smooth, Chebyshev where it is stiff.

An integrator has ``largest_step(rho)``, stable for a spectral radius rho of df/dtheta on the
negative real axis; ``cost(h, rho)``, the evaluations of f of one step; ``order``, and
``error_order``, the power of h in its error estimate; and ``step``, which returns y(t + h)
with a closure for the local error once f there is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

from torch import Tensor

Field = Callable[[Tensor], Tensor]
ErrorEstimate = Callable[[Tensor], Tensor]


class EmbeddedPair:
    """An explicit Runge-Kutta pair whose last stage is the next step's first.

    Parameters
    ----------
    order : int
        Order of the solution; its error estimate is of the same order locally.
    stages : tuple of tuples
        Rows of the Butcher tableau after the first; the last one is the solution.
    error : tuple
        Weights of the solution minus those of the embedded one.
    stability : float
        Largest stable h rho on the negative real axis.
    """

    def __init__(self, order: int, stages: tuple, error: tuple, stability: float):
        self.order, self.error_order = order, order
        self.stages, self.error, self.stability = stages, error, stability

    def largest_step(self, rho: float) -> float:
        # a margin, so that stiff modes are damped and not just bounded
        return 0.85 * self.stability / rho if rho > 0 else math.inf

    def cost(self, h: float, rho: float) -> int:
        return len(self.stages)

    def step(
        self, f: Field, y: Tensor, fy: Tensor, h: float, rho: float
    ) -> tuple[Tensor, ErrorEstimate]:
        slopes = [fy]
        for weights in self.stages:
            terms = zip(weights, slopes, strict=True)
            point = y + h * sum(weight * slope for weight, slope in terms)
            if weights is not self.stages[-1]:
                slopes.append(f(point))

        def error(f_next):
            terms = zip(self.error, [*slopes, f_next], strict=True)
            return h * sum(weight * slope for weight, slope in terms)

        return point, error


def bogacki_shampine() -> EmbeddedPair:
    """The 3(2) pair of P. Bogacki and L. F. Shampine, Appl. Math. Lett. 2 (1989) 321-325."""
    stages = ((1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9))
    return EmbeddedPair(3, stages, (-5 / 72, 1 / 12, 1 / 9, -1 / 8), stability=2.5)


def dormand_prince() -> EmbeddedPair:
    """The 5(4) pair of J. R. Dormand and P. J. Prince, J. Comput. Appl. Math. 6 (1980) 19-26."""
    stages = (
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    )
    error = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
    return EmbeddedPair(5, stages, error, stability=3.3)


class Chebyshev:
    """Runge-Kutta-Chebyshev of order two: s stages are stable up to h rho = 0.65 s^2.

    A gradient flow of the free energy is stiff along the real axis: diffusion damps short
    wavelengths at a rate that grows with their square.

    Source: B. P. Sommeijer, L. F. Shampine, J. G. Verwer, "RKC: an explicit solver for
    parabolic PDEs", J. Comput. Appl. Math. 88 (1998) 315-326.
    """

    order, error_order = 2, 3

    def __init__(self, max_stages: int):
        self.max_stages = max_stages

    def largest_step(self, rho: float) -> float:
        return (self.max_stages**2 - 1) / 1.54 / rho

    def cost(self, h: float, rho: float) -> int:
        return max(2, 1 + int(math.sqrt(1 + 1.54 * h * rho)))

    def step(self, f, y, fy, h, rho):
        first, stages = _chebyshev_coefficients(self.cost(h, rho))
        before, now = y, y + first * h * fy
        for mu, nu, mu_tilde, gamma_tilde in stages:
            after = (1 - mu - nu) * y + mu * now + nu * before
            before, now = now, after + h * (mu_tilde * f(now) + gamma_tilde * fy)

        def error(f_next):  # (2.9) of the source
            return 0.8 * (y - now) + 0.4 * h * (fy + f_next)

        return now, error


@lru_cache(maxsize=128)
def _chebyshev_coefficients(s: int) -> tuple[float, list[tuple[float, float, float, float]]]:
    """mu~_1, then (mu, nu, mu~, gamma~) of stages 2..s: (2.3)-(2.5) of the source."""
    w0 = 1 + 2 / 13 / s**2
    T, dT, ddT = [1.0, w0], [0.0, 1.0], [0.0, 0.0]  # Chebyshev polynomials and derivatives at w0
    for _ in range(2, s + 1):
        ddT.append(4 * dT[-1] + 2 * w0 * ddT[-1] - ddT[-2])
        dT.append(2 * T[-1] + 2 * w0 * dT[-1] - dT[-2])
        T.append(2 * w0 * T[-1] - T[-2])
    w1 = dT[s] / ddT[s]
    b = [0.0, 0.0] + [ddT[j] / dT[j] ** 2 for j in range(2, s + 1)]
    b[0] = b[1] = b[2]
    stages = []
    for j in range(2, s + 1):
        mu_tilde = 2 * b[j] * w1 / b[j - 1]
        gamma_tilde = -(1 - b[j - 1] * T[j - 1]) * mu_tilde
        stages.append((2 * b[j] * w0 / b[j - 1], -b[j] / b[j - 2], mu_tilde, gamma_tilde))
    return b[1] * w1, stages


class StepControl:
    """Which integrator takes the next step, and how long it is.

    The first integrator marches while accuracy limits its steps. Where stability does, the one
    that goes furthest per evaluation is taken, by the step that its own last error estimate
    allowed; one that has not been asked for a while is tried again.

    Parameters
    ----------
    integrators : sequence
        The accurate one, then the stable ones.
    first_step, largest_step : float
        First and longest step.
    """

    patience = 25

    def __init__(self, integrators, first_step: float, largest_step: float):
        self.integrators = integrators
        self.allowed = dict.fromkeys(integrators, first_step)
        self.age = dict.fromkeys(integrators, self.patience)
        self.largest = largest_step

    def replace(self, integrators) -> None:
        """Go on with other integrators, at the step that the last ones had come to."""
        h = min(self.allowed.values())
        self.integrators = integrators
        self.allowed = dict.fromkeys(integrators, h)
        self.age = dict.fromkeys(integrators, self.patience)

    def propose(self, rho: float):
        """The integrator and the step to try."""

        def length(integrator):
            return min(self.allowed[integrator], self.largest, integrator.largest_step(rho))

        def efficiency(integrator):
            h = length(integrator)
            return h / integrator.cost(h, rho)

        accurate, *stable = self.integrators
        if not stable:
            return accurate, length(accurate)
        stability_limits = min(self.allowed[accurate], self.largest) > accurate.largest_step(rho)
        if not stability_limits:
            return accurate, length(accurate)
        for integrator in stable:
            self.age[integrator] += 1
            if self.age[integrator] > self.patience:
                self.allowed[integrator] = 2 * accurate.largest_step(rho)
                return integrator, length(integrator)
        best = max(self.integrators, key=efficiency)
        return best, length(best)

    def report(self, integrator, h: float, error: float) -> None:
        """Tell what error a step of length h made, relative to the allowed one."""
        self.age[integrator] = 0
        if not math.isfinite(error):
            factor = 0.2
        else:
            factor = 0.85 * max(error, 1e-8) ** (-1 / integrator.error_order)
        self.allowed[integrator] = h * min(5.0, max(0.2, factor))
