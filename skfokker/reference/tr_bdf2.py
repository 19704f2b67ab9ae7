"""TR-BDF2: a second-order, L-stable march for p' = A(t) p, its steps halvable for extrapolation.

R. E. Bank et al., "Transient simulation of silicon devices and circuits", IEEE Trans. Electron
Devices 32 (1985); the error estimate is theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np

_GAMMA = 2 - math.sqrt(2)  # makes both stages share one matrix, I - (gamma / 2) h A
_ERROR = (-3 * _GAMMA**2 + 4 * _GAMMA - 2) / (6 * (2 - _GAMMA))


class Operator(Protocol):
    """A linear operator A(t) on arrays of densities, at one time.

    Attributes
    ----------
    weights : ndarray
        Of the quadrature that gives the mass.
    positive : bool
        Whether solutions of p' = A p stay positive.
    """

    weights: np.ndarray
    positive: bool

    def at(self, t: float) -> Operator:
        """A at time t; itself where A does not depend on time."""

    def apply(self, p: np.ndarray) -> np.ndarray:
        """A p."""

    def solver(self, a: float) -> Callable[[np.ndarray], np.ndarray]:
        """Return a function that solves (I - a A) p = b."""

    def relative_norm(self, error: np.ndarray, p: np.ndarray) -> float:
        """Root of the integral of error^2 / p."""


class Unsteady:
    """An operator that is built anew for every time, the last three of which are kept.

    Parameters
    ----------
    build : callable
        From a time to the operator at that time.
    """

    def __init__(self, build: Callable[[float], Operator]):
        self._build = build
        self._kept: dict[float, Operator] = {}
        self.weights = self.at(0.0).weights

    def at(self, t: float) -> Operator:
        """See :class:`Operator`."""
        t = float(t)
        if t not in self._kept:
            self._kept = dict(list(self._kept.items())[-2:]) | {t: self._build(t)}
        return self._kept[t]


class _Steps:
    """Steps of one operator; the factors of the last step length and time are kept."""

    def __init__(self, operator: Operator):
        self.operator = operator
        self._now: Operator | None = None
        self._a = math.nan
        self._solve: Callable[[np.ndarray], np.ndarray]

    def solve(self, operator: Operator, a: float, b: np.ndarray) -> np.ndarray:
        """Solution p of (I - a A) p = b."""
        if operator is not self._now or not math.isclose(a, self._a, rel_tol=1e-11):
            self._now, self._a, self._solve = operator, a, operator.solver(a)
        return self._solve(b)

    def __call__(self, p: np.ndarray, t: float, h: float) -> tuple[np.ndarray, np.ndarray]:
        """State after a step h from t, and the state in between (at t + gamma h)."""
        a = 0.5 * _GAMMA * h
        inside, after = self.operator.at(t + _GAMMA * h), self.operator.at(t + h)
        middle = self.solve(inside, a, p + a * self.operator.at(t).apply(p))
        weight = 1 / (_GAMMA * (2 - _GAMMA))
        return self.solve(after, a, weight * middle - weight * (1 - _GAMMA) ** 2 * p), middle

    def error(
        self, p: np.ndarray, middle: np.ndarray, end: np.ndarray, t: float, h: float
    ) -> float:
        """Size of the local error of the step just made, relative to the density."""
        stages = (t, p), (t + _GAMMA * h, middle), (t + h, end)
        slopes = [self.operator.at(s).apply(q) for s, q in stages]
        third = slopes[0] / _GAMMA - slopes[1] / (_GAMMA * (1 - _GAMMA)) + slopes[2] / (1 - _GAMMA)
        last = self.operator.at(t + h)
        error = self.solve(last, 0.5 * _GAMMA * h, _ERROR * h * third)
        return last.relative_norm(error, end)


def adaptive(
    operator: Operator, p: np.ndarray, t_end: float, tolerance: float
) -> tuple[np.ndarray, list[np.ndarray]]:
    """March with steps t_end / 2^j, each with a local error of at most ``tolerance``.

    Returns the times (k + 1,) and the states there.
    """
    finest = 2**40
    step = _Steps(operator)
    position, length = 0, finest // 2**12
    times, states = [0.0], [p]
    while position < finest:
        t, h = t_end * position / finest, t_end * length / finest
        end, middle = step(p, t, h)
        error = step.error(p, middle, end, t, h)
        if error > tolerance and length > 1:
            length //= 2
            continue
        p, position = end, position + length
        times.append(t_end * position / finest)
        states.append(p)
        if error < 0.1 * tolerance and position % (2 * length) == 0 and length < finest // 8:
            length *= 2  # the error grows eightfold
    return np.array(times), states


def replay(
    operator: Operator, p: np.ndarray, times: np.ndarray, n_substeps: int
) -> list[np.ndarray]:
    """March through given times, every interval cut in ``n_substeps``; states at the times."""
    step, states = _Steps(operator), [p]
    for start, end in zip(times[:-1], times[1:], strict=True):
        h = (end - start) / n_substeps
        for k in range(n_substeps):
            p, _ = step(p, start + k * h, h)
        states.append(p)
    return states
