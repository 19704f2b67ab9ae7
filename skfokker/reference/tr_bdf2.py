"""TR-BDF2: a second-order, L-stable march for p' = A p, its steps halvable for extrapolation.

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
    """A linear operator A on arrays of densities."""

    def apply(self, p: np.ndarray) -> np.ndarray:
        """A p."""

    def solver(self, a: float) -> Callable[[np.ndarray], np.ndarray]:
        """Return a function that solves (I - a A) p = b."""

    def relative_norm(self, error: np.ndarray, p: np.ndarray) -> float:
        """Root of the integral of error^2 / p."""


class _Steps:
    """Steps of one operator; the factors of the last step length are kept."""

    def __init__(self, operator: Operator):
        self.operator = operator
        self._a = math.nan
        self._solve: Callable[[np.ndarray], np.ndarray]

    def __call__(self, p: np.ndarray, h: float) -> tuple[np.ndarray, np.ndarray]:
        """State after a step h, and the state in between (at gamma h)."""
        a = 0.5 * _GAMMA * h
        if not math.isclose(a, self._a, rel_tol=1e-11):
            self._a, self._solve = a, self.operator.solver(a)
        middle = self._solve(p + a * self.operator.apply(p))
        weight = 1 / (_GAMMA * (2 - _GAMMA))
        return self._solve(weight * middle - weight * (1 - _GAMMA) ** 2 * p), middle

    def error(self, p: np.ndarray, middle: np.ndarray, end: np.ndarray, h: float) -> float:
        """Size of the local error, relative to the density."""
        slopes = [self.operator.apply(state) for state in (p, middle, end)]
        third = slopes[0] / _GAMMA - slopes[1] / (_GAMMA * (1 - _GAMMA)) + slopes[2] / (1 - _GAMMA)
        return self.operator.relative_norm(self._solve(_ERROR * h * third), end)


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
        h = t_end * length / finest
        end, middle = step(p, h)
        error = step.error(p, middle, end, h)
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
        for _ in range(n_substeps):
            p, _ = step(p, (end - start) / n_substeps)
        states.append(p)
    return states
