"""Coordinates that live on a half line or an interval: x = f(y), y on the whole line.

x = low + e^y on (low, inf), x = high - e^-y on (-inf, high), x = low + (high - low) / (1 + e^-y) on
(low, high), and x = y where there is no end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

_FURTHEST = 300.0  # e^-300 squared is still a number
_RESOLVED = 1e-12  # distance from an end that rounding of x leaves four digits of
_WANTED = (
    "support must be a pair (low, high) for all coordinates, or one for every coordinate, shape "
    "(d, 2), with None for a whole line, as in (0, inf) or [(0, 1), None]"
)


class Support:
    """The ends of every coordinate, and the map from the whole line that respects them.

    Parameters
    ----------
    low, high : ndarray (d,)
        Infinite where there is no end.
    """

    def __init__(self, low: np.ndarray, high: np.ndarray):
        self.low, self.high = low, high

    @classmethod
    def of(cls, given: Any, d: int) -> Support | None:
        """What a user gave, in dimension d; None where no coordinate has an end.

        Raises
        ------
        ValueError
            Where it is no pair, or not one a coordinate, or low is not below high.
        """
        if given is None:
            return None
        whole = (-np.inf, np.inf)
        try:
            ends = np.array([whole if row is None else row for row in given], dtype=float)
        except (TypeError, ValueError):
            raise ValueError(f"{_WANTED}, got {given!r}.") from None
        if ends.shape == (2,):
            ends = np.tile(ends, (d, 1))
        if ends.shape != (d, 2):
            raise ValueError(f"{_WANTED}, got shape {ends.shape} in dimension d = {d}.")
        low, high = ends.T
        if not (low < high).all():
            row = int(np.flatnonzero(~(low < high))[0])
            raise ValueError(
                f"support must have low < high, got ({low[row]:g}, {high[row]:g}) for coordinate "
                f"{row}."
            )
        return cls(low.copy(), high.copy()) if np.isfinite(ends).any() else None

    def __str__(self) -> str:
        ends = [f"({a:g}, {b:g})" for a, b in zip(self.low, self.high, strict=True)]
        return ends[0] if len(set(ends)) == 1 else " x ".join(ends)

    @staticmethod
    def length(given: Any) -> int | None:
        """d, where what a user gave says it."""
        rows = list(given) if isinstance(given, list | tuple | np.ndarray) else []
        return len(rows) if any(row is None or np.ndim(row) == 1 for row in rows) else None

    @property
    def formula(self) -> str:
        """What is y, in words."""
        names = ("y = log(x - low)", "y = -log(high - x)", "y = log((x - low) / (high - x))")
        kinds = self._kinds(torch.zeros(len(self.low), dtype=torch.float64))[2:]
        used = [name for name, kind in zip(names, kinds, strict=True) if kind.any()]
        return f"{' or '.join(used)}, for the support {self}"

    @property
    def log_like(self) -> bool:
        """Whether y is log x for all coordinates."""
        return bool((self.low == 0).all() and np.isinf(self.high).all())

    def _kinds(self, like: Tensor) -> tuple[Tensor, ...]:
        """low and high, and which coordinates have only the one, only the other, both."""
        low, high = (torch.as_tensor(end).to(like) for end in (self.low, self.high))
        below, above = torch.isfinite(low), torch.isfinite(high)
        zero = torch.zeros_like(low)
        low, high = torch.where(below, low, zero), torch.where(above, high, zero)
        return low, high, below & ~above, above & ~below, below & above

    def to_x(self, y: Tensor) -> Tensor:
        """x at y (..., d)."""
        low, high, half, under, both = self._kinds(y)
        x = torch.where(half, low + y.exp(), y)
        x = torch.where(under, high - (-y).exp(), x)
        return torch.where(both, low + (high - low) * torch.sigmoid(y), x)

    def to_y(self, x: Tensor) -> Tensor:
        """y at x (..., d), infinite or NaN where that is not inside."""
        low, high, half, under, both = self._kinds(x)
        y = torch.where(half, (x - low).log(), x)
        y = torch.where(under, -(high - x).log(), y)
        return torch.where(both, (x - low).log() - (high - x).log(), y)

    def log_slope(self, y: Tensor) -> Tensor:
        """log dx/dy of every coordinate at y (..., d)."""
        low, high, half, under, both = self._kinds(y)
        slope = torch.where(half, y, torch.zeros_like(y))
        slope = torch.where(under, -y, slope)
        width = torch.where(both, high - low, torch.ones_like(low)).log()
        bell = width + torch.nn.functional.logsigmoid(y) + torch.nn.functional.logsigmoid(-y)
        return torch.where(both, bell, slope)

    def slope(self, y: Tensor) -> Tensor:
        """dx/dy of every coordinate at y (..., d)."""
        return self.log_slope(y).exp()

    def bend(self, y: Tensor) -> Tensor:
        """d log(dx/dy) / dy of every coordinate at y (..., d)."""
        *_, half, under, both = self._kinds(y)
        bend = half.to(y) - under.to(y)
        return torch.where(both, -torch.tanh(y / 2), bend.expand_as(y))

    def within(self, y: Tensor) -> Tensor:
        """y (n, d), no further out than functions of x can be told: there it is on an end."""
        low, high, *kinds = self._kinds(y)
        ended = kinds[0] | kinds[1] | kinds[2]
        out = torch.where(ended, _FURTHEST, torch.inf).to(y)
        room = [torch.where(end == 0, 0.0, _RESOLVED * end.abs()) for end in (low, high)]
        lowest = torch.where(kinds[0] | kinds[2], self.to_y(low + room[0]), -out)
        highest = torch.where(kinds[1] | kinds[2], self.to_y(high - room[1]), out)
        return y.clamp(lowest.clamp(min=-out), highest.clamp(max=out))

    def contains(self, x: Tensor) -> Tensor:
        """Whether points x (n, d) are inside, (n,) of bool."""
        low, high = (torch.as_tensor(end).to(x) for end in (self.low, self.high))
        return ((x > low) & (x < high)).all(1)

    def pull_back(self, y: Tensor, v: Tensor) -> Tensor:
        """Vectors v (n, d) at x = f(y) as vectors at y."""
        return v / self.slope(y)
