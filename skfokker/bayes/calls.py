"""How often a log density was asked, by how many processes, and when to stop asking."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from joblib import Parallel, delayed, effective_n_jobs
from torch import Tensor

from ..potentials import Potential

_SLOW = 0.1  # seconds: batches that take longer are asked in parts, so that a deadline is kept


class BudgetSpent(Exception):
    """The next points of the log density would exceed what was allowed."""


class Counted(Potential):
    """A potential that counts the points it is asked at.

    Parameters
    ----------
    potential : callable
    n_jobs : int, default=1
        Processes (joblib) that share the points of a batch; -1 takes all cores. For log densities
        that take milliseconds a point.

    Attributes
    ----------
    n_values, n_gradients : int
        Points at which only V, or V and its gradient, were evaluated.
    n_batches : int
    seconds : float
        Wall time spent inside the potential.
    """

    def __init__(self, potential: Any, n_jobs: int = 1):
        self.potential = potential
        self.n_jobs = n_jobs
        self._points, self._batches, self._seconds = [0, 0], 0, 0.0
        self._limit, self._deadline = math.inf, math.inf

    @property
    def n_features_in_(self) -> int:
        return self.potential.n_features_in_

    @property
    def has_walls(self) -> bool:  # type: ignore[override]
        return getattr(self.potential, "has_walls", False)

    @property
    def n_values(self) -> int:
        return self._points[0]

    @property
    def n_gradients(self) -> int:
        return self._points[1]

    @property
    def n_batches(self) -> int:
        return self._batches

    @property
    def seconds(self) -> float:
        return self._seconds

    @property
    def total(self) -> int:
        """Points in all."""
        return self.n_values + self.n_gradients

    @property
    def seconds_a_point(self) -> float:
        """Wall time of one point, so far."""
        return self.seconds / max(self.total, 1)

    @property
    def calls_left(self) -> float:
        """Points that may still be asked for."""
        return self._limit - self.total

    @property
    def seconds_left(self) -> float:
        """Until the deadline."""
        return self._deadline - time.perf_counter()

    def __call__(self, x):
        if x.requires_grad and torch.is_grad_enabled():  # who differentiates keeps the graph
            self._allow(len(x))
            before = time.perf_counter()
            value = self.potential(x)
            self._count(1, len(x), before)
            return value
        return torch.cat(self._ask(0, self.potential, x))

    def value_and_grad(self, x):
        if not hasattr(self.potential, "value_and_grad"):
            return super().value_and_grad(x)
        values, gradients = zip(*self._ask(1, self.potential.value_and_grad, x), strict=True)
        return torch.cat(values), torch.cat(gradients)

    @contextmanager
    def allowance(self, calls: float = math.inf, seconds: float = math.inf) -> Iterator[Counted]:
        """Within this block a :class:`BudgetSpent` is raised rather than ask for more.

        What is allowed already is never exceeded.

        Parameters
        ----------
        calls : float
            Points from now on.
        seconds : float
            Wall time from now on.
        """
        before = self._limit, self._deadline
        self._limit = min(self._limit, self.total + calls)
        self._deadline = min(self._deadline, time.perf_counter() + seconds)
        try:
            yield self
        finally:
            self._limit, self._deadline = before

    def check(self) -> None:
        """Raise a :class:`BudgetSpent` where the time is over."""
        self._allow(0)

    def __str__(self) -> str:
        return (
            f"log density asked at {self.total} points ({self.n_values} values, "
            f"{self.n_gradients} gradients) in {self.n_batches} batches, {self.seconds:.2g} s"
        )

    def __getstate__(self):
        state = dict(super().__getstate__())
        state["_limit"] = state["_deadline"] = math.inf
        return state

    # ------------------------------------------------------------------ inside

    def _allow(self, n: int) -> None:
        if n > self.calls_left or self.seconds_left < 0:
            raise BudgetSpent

    def _count(self, kind: int, n: int, before: float) -> None:
        self._points[kind] += n
        self._batches += 1
        self._seconds += time.perf_counter() - before

    def _ask(self, kind: int, function: Any, x: Tensor) -> list:
        """What the function says, in as many parts as the clock and the processes want."""
        answers: list = []
        start = 0
        if not len(x):
            return [function(x)]
        self._allow(len(x))
        while start < len(x):
            self._allow(0)
            size = len(x) - start
            if self._deadline < math.inf and self.seconds_a_point * size > _SLOW:
                size = max(1, min(size, int(_SLOW / self.seconds_a_point))) * self._n_processes
            part, before = x[start : start + size], time.perf_counter()
            answers += self._spread(function, part)
            self._count(kind, len(part), before)
            start += size
        return answers

    @property
    def _n_processes(self) -> int:
        return 1 if self.n_jobs == 1 else effective_n_jobs(self.n_jobs)

    def _spread(self, function: Any, x: Tensor) -> list:
        n = min(self._n_processes, len(x))
        if n == 1:
            return [function(x)]
        parts = [part.detach().clone() for part in x.tensor_split(n)]
        return Parallel(n_jobs=n)(delayed(function)(part) for part in parts)
