"""The terms of an equation in other units: x = origin + length u."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from .diffusion import Diffusion
from .drift import Drift, Interaction


@dataclass(frozen=True)
class ScaledDrift:
    """A drift of u; see :class:`~skfokker.dynamics.drift.Drift`."""

    drift: Drift
    origin: Tensor
    length: float

    def __getattr__(self, name: str) -> Any:
        if name in ("d", "terms", "steady"):
            return getattr(self.drift, name)
        raise AttributeError(name)

    def _to_x(self, u: Tensor) -> Tensor:
        return self.origin.to(u) + self.length * u

    def where(self, u: Tensor) -> Tensor:
        """The points of the user: those that messages name."""
        return self.drift.where(self._to_x(u))

    def __call__(self, u: Tensor, t: float) -> Tensor:
        return self.drift(self._to_x(u), t) / self.length


@dataclass(frozen=True)
class ScaledDiffusion:
    """A diffusion of u; see :class:`~skfokker.dynamics.diffusion.Diffusion`."""

    given: Diffusion
    origin: Tensor
    length: float

    def __getattr__(self, name: str) -> Any:
        if name in ("constant", "diagonal", "steady", "kind"):
            return getattr(self.given, name)
        raise AttributeError(name)

    def _to_x(self, u: Tensor) -> Tensor:
        return self.origin.to(u) + self.length * u

    def _less(self, value: Tensor) -> Tensor:
        return value / self.length / self.length

    def along(self, u: Tensor, t: float) -> Tensor:
        return self._less(self.given.along(self._to_x(u), t))

    def matrix(self, u: Tensor, t: float) -> Tensor:
        return self._less(self.given.matrix(self._to_x(u), t))

    def apply(self, u: Tensor, t: float, v: Tensor) -> Tensor:
        return self._less(self.given.apply(self._to_x(u), t, v))

    def noise(self, u: Tensor, t: float, xi: Tensor) -> Tensor:
        return self.given.noise(self._to_x(u), t, xi) / self.length

    def divergence(self, u: Tensor, t: float) -> Tensor | float:
        return self.given.divergence(self._to_x(u), t) / self.length

    def charged(self, u: Tensor, t: float, v: Tensor) -> Tensor:
        return self.length * self.given.charged(self._to_x(u), t, v)

    def depends(self, u: Tensor, t: float) -> np.ndarray:
        return self.given.depends(self._to_x(u), t)


@dataclass(frozen=True)
class ScaledInteraction:
    """A mean field of u; see :class:`~skfokker.dynamics.drift.Interaction`."""

    given: Interaction
    length: float

    def slope(self, r: Tensor, t: float) -> Tensor:
        return self.given.slope(self.length * r, t) / self.length

    def force(self, u: Tensor, crowd: Tensor, t: float) -> Tensor:
        return self.given.force(self.length * u, self.length * crowd, t) / self.length
