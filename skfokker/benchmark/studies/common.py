"""What the studies share: options, a guarded and timed fit, a fitted exponent."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...flows import AffineFlow, Composition, ElementwiseFlow, Inverse, TriangularFlow
from ..methods import FitLaw, fit_ours
from ..references import References
from ..runner import time_limit, warm_up


@dataclass
class StudyOptions:
    """Settings of a study.

    Attributes
    ----------
    seed : int
    time_limit : float or None
        Seconds allowed for a fit.
    quick : bool
        Small sizes, to see that it works.
    say : callable
        Gets a line of text after each result.
    references : References
    """

    seed: int = 0
    time_limit: float | None = 900.0
    quick: bool = False
    say: Callable[[str], None] = lambda line: None
    references: References = field(default_factory=References)

    def __post_init__(self):
        warm_up()


def attempt(work: Callable[..., Any], *arguments) -> tuple[Any, str | None]:
    """``work(*arguments)`` and None; or None, and the error it ended in. Shows no warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return work(*arguments), None
        except Exception as error:
            return None, f"{type(error).__name__}: {error}"


def timed_fit(problem, options: StudyOptions, seed: int | None = None, **parameters):
    """The law fitted, its wall time, and None; or None, the time, and what went wrong.

    The seed is that of the options where None.
    """

    def fit():
        with time_limit(options.time_limit):
            return fit_ours(problem, options.seed if seed is None else seed, **parameters)

    start = time.perf_counter()
    fitted, failure = attempt(fit)
    seconds = time.perf_counter() - start
    if failure is not None:
        options.say(f"{problem.name:32} {failure}")
        return None, seconds, failure
    options.say(f"{problem.name:32} {seconds:8.2f} s")
    return FitLaw(fitted), seconds, None


def triangular(d: int) -> Composition:
    """A family for coupled problems that :class:`LeastSquaresNested` can march."""
    n_hidden = max(24, 3 * d)
    layers = [
        ElementwiseFlow(16),
        TriangularFlow(n_hidden),
        TriangularFlow(n_hidden, reverse=True),
        ElementwiseFlow(16),
    ]
    return Composition([*map(Inverse, layers), AffineFlow()])


def exponent(x: Sequence[float], y: Sequence[float]) -> float | None:
    """p of the power law y = c x^p by least squares of logarithms; None for under two points."""
    points = [(a, b) for a, b in zip(x, y, strict=True) if a and b and a > 0 and b > 0]
    if len({a for a, _ in points}) < 2:
        return None
    log_x, log_y = np.log(np.array(points)).T
    return float(np.polyfit(log_x, log_y, 1)[0])


def exponents(law: str, p: float | None) -> str:
    """A sentence about a fitted exponent."""
    return f"{law}: " + ("too few points." if p is None else f"exponent {p:.2f}.")
