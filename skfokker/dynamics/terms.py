"""Functions of the user's of points and time: how they are called, and what they must give back."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..potentials import PotentialError
from ..potentials.base import Potential
from ..potentials.foreign import ask

_TIMES = {"t", "time"}


def takes_time(function: Callable, name: str) -> bool:
    """Whether a function is one of points and time, f(x, t), or of points alone, f(x).

    Raises
    ------
    TypeError
        Where it is neither: no argument, one that is called t, or more than two without a default.
    """
    if isinstance(function, Potential):
        return False
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of code without a signature
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p for p in positional if p.default is p.empty]
    several = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if len(needed) > 2 or not (positional or several):
        raise TypeError(
            f"{name} must be a function of points, f(x), or of points and time, f(x, t), but it "
            f"takes {len(needed)} arguments: bind the others, with functools.partial for instance."
        )
    if len(needed) == 1 and needed[0].name in _TIMES and len(positional) == 1:
        raise TypeError(
            f"{name} must take the points first, f(x, t) or f(x), but its only argument is called "
            f"{needed[0].name!r}: write it as a function (x, t) of points (n, d) and a time."
        )
    return len(needed) == 2 or (len(positional) > 1 and positional[1].name in _TIMES)


class Term:
    """A function of the user's of points x (n, d) and, perhaps, a time.

    Parameters
    ----------
    function : callable
    name : str
        What it is called in messages.
    d : int
        Dimension.
    shapes : sequence of str
        Shapes that its answer may have, in terms of n and d: "n", "n1", "nd", "ndd", and "", "d",
        "dd" where it is the same at all points.

    Attributes
    ----------
    steady : bool
        Whether it is a function of points alone.
    shape : str
        The one of ``shapes`` that its answer was seen to have.
    """

    def __init__(self, function: Callable, name: str, d: int, shapes: Sequence[str]):
        self.function, self.name, self.d = function, name, d
        self.steady = not takes_time(function, name)
        self.shape = self._seen_shape(shapes)

    def raw(self, x: Tensor, t: float) -> Any:
        """What the function says, with a graph where x has one."""
        if self.steady:
            return ask(self.function, x, self.name)
        return ask(lambda points: self.function(points, float(t)), x, self.name)

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """The answer at x (n, d), as (n, ...) or (1, ...), in the dtype of x."""
        value = self.raw(x, t)
        # a number of Python's has all its digits
        value = torch.as_tensor(value, dtype=None if isinstance(value, Tensor) else x.dtype).to(x)
        if not self.shape.startswith("n"):
            return value[None]
        return value[:, 0] if self.shape == "n1" else value

    def _seen_shape(self, shapes: Sequence[str]) -> str:
        d = self.d
        n = d + 2  # unlike d and 1, so that axes cannot be mistaken
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(n, d, dtype=torch.float64, generator=generator)
        value = self.raw(x, 0.0)
        if not isinstance(value, Tensor):
            if isinstance(value, float | int):
                value = torch.tensor(float(value))
            else:
                raise TypeError(
                    f"{self.name} must return a torch tensor, got {type(value).__name__}; write it "
                    "with torch functions."
                )
        if not value.is_floating_point():
            raise TypeError(
                f"{self.name} must return real floating-point numbers, got dtype {value.dtype}."
            )
        known = {"n": (n,), "n1": (n, 1), "nd": (n, d), "ndd": (n, d, d)}
        known |= {"": (), "d": (d,), "dd": (d, d)}
        for shape in shapes:
            if tuple(value.shape) == known[shape]:
                return shape
        wanted = " or ".join(_readable(shape) for shape in shapes)
        raise ValueError(
            f"{self.name} must return shape {wanted} for points of shape (n, d) = ({n}, {d}), got "
            f"{tuple(value.shape)}."
        )


def _readable(shape: str) -> str:
    letters = ", ".join(shape)
    return f"({letters},)" if len(shape) == 1 else f"({letters})"


def not_finite(value: Tensor, x: Tensor, t: float | None, name: str) -> PotentialError:
    """The complaint that an answer (n, ...) at points x (n, d) is not finite."""
    from ..potentials.checks import _show

    bad = ~torch.isfinite(value.reshape(len(value), -1)).all(1)
    row = int(bad.nonzero()[0])
    what = "NaN" if torch.isnan(value[row]).any() else "an infinite value"
    lost = x[min(row, len(x) - 1)]
    when = "" if t is None else f" (time t = {t:g})"
    if not torch.isfinite(lost).all():
        return PotentialError(
            f"{name} was asked at a point that is not finite, x = {_show(lost)}{when}: the march "
            "has diverged; try a smaller tolerance or smaller steps"
        )
    return PotentialError(
        f"{name} returned {what} at x = {_show(lost)}{when}, and at {int(bad.sum())} of "
        f"{len(x)} points in all; it has to be finite wherever the solution has mass, at all times "
        "of the march"
    )


def same_rows(term: Term, x: Tensor, t: float) -> None:
    """See that the answer at a point is the same in every call and in all company.

    Raises
    ------
    ValueError
        Where it is not.
    """
    first, again = term(x, t), term(x, t)
    size = float(torch.nan_to_num(first).abs().max()) if first.numel() else 0.0
    if float(torch.nan_to_num(again - first).abs().max()) > 1e-6 * size:
        raise ValueError(
            f"{term.name} is not deterministic: two calls at the same points have different "
            "answers. Fix the random numbers inside it, and switch dropout off (module.eval())."
        )
    if len(first) == 1:
        return
    halves = torch.cat([term(part, t) for part in x.split(max(1, len(x) // 2))])
    if float(torch.nan_to_num(halves - first).abs().max()) > 1e-6 * size:
        raise ValueError(
            f"{term.name} depends on the other points of the call: each row must be a function of "
            "its own point alone. For a force between particles use interaction=W."
        )
