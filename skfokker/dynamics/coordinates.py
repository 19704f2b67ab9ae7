r"""An equation in other coordinates y, x = f(y), by the formula of Ito.

With J = df/dy, dy = J^{-1} (b - sum_jk d_j d_k f D^y_jk) dt + J^{-1} sigma dB and
D^y = J^{-1} D J^{-T}. Linear coordinates leave out the sum; where every coordinate is a function of
its own, f'' = f' bend.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..rotation import NOISE
from .diffusion import Diffusion
from .drift import Drift
from .general import GeneralFokkerPlanck
from .support import Support

_NOTHING = 1e-9  # relative size of what is rounding on the diagonal of a D that was turned
_SAME = 1e-10  # relative size of what is rounding in a D that is the same at all points


class ChangedDrift:
    """The drift in y of a drift in x; see :class:`Drift`.

    Parameters
    ----------
    drift : Drift or ChangedDrift
        Of x.
    chart
        With ``to_x(y)`` and ``pull_back(y, v)``, which is J^{-1} v.
    """

    name = "drift"

    def __init__(self, drift: Drift | ChangedDrift, chart: Any):
        self.drift, self.chart = drift, chart

    @property
    def d(self) -> int:
        """Dimension."""
        return self.drift.d

    @property
    def terms(self):
        """The functions that it is made of, of points of the user."""
        return self.drift.terms

    @property
    def steady(self) -> bool:
        """Whether none of it depends on time."""
        return self.drift.steady

    def where(self, y: Tensor) -> Tensor:
        """The points of the user: those that messages name."""
        return self.drift.where(self.chart.to_x(y))

    def __call__(self, y: Tensor, t: float) -> Tensor:
        """b (n, d) at points y (n, d), finite or not."""
        return self.chart.pull_back(y, self.drift(self.chart.to_x(y), t))


class InsideDrift(ChangedDrift):
    """The drift where coordinates have ends."""

    chart: Support

    def __init__(self, drift: Drift, diffusion: InsideDiffusion):
        super().__init__(drift, diffusion.support)
        self.diffusion = diffusion

    @property
    def steady(self) -> bool:
        return self.drift.steady and self.diffusion.steady

    def __call__(self, y: Tensor, t: float) -> Tensor:
        y = self.chart.within(y)
        return super().__call__(y, t) - self.chart.bend(y) * self.diffusion.along(y, t)

    def at_rest(self, y: Tensor) -> Tensor:
        """The same as a function of points alone, where it is steady."""
        return self(y, 0.0)


class InsideDiffusion(Diffusion):
    """The diffusion where coordinates have ends.

    Parameters
    ----------
    diffusion : Diffusion
        Of x.
    support : Support
    """

    def __init__(self, diffusion: Diffusion, support: Support):
        self.inner, self.support, self.d = diffusion, support, diffusion.d
        self.term, self.fixed = diffusion.term, None
        self.constant, self.steady = False, diffusion.steady
        self.kind = "diagonal" if diffusion.diagonal else "matrix"

    def __call__(self, y: Tensor, t: float) -> Tensor:
        y = self.support.within(y)
        x, slope = self.support.to_x(y), self.support.slope(y)
        if self.diagonal:
            return self.inner.along(x, t) / slope / slope
        return self.inner(x, t) / slope[:, :, None] / slope[:, None]

    def divergence(self, x: Tensor, t: float) -> Tensor:
        """div D^y = J^{-1} div D - D^y bend - diag(D^y) bend."""
        x = self.support.within(x)
        bend = self.support.bend(x)
        inner = self.inner.divergence(self.support.to_x(x), t)
        out = self.support.pull_back(x, inner * torch.ones_like(x))
        return out - self.apply(x, t, bend) - self.along(x, t) * bend

    def check(self, x: Tensor, t: float) -> float:
        self.inner.check(self.support.to_x(x), t)  # whose messages name points of the user
        return super().check(x, t)

    def settled(self, y: Tensor, times) -> Diffusion:
        """The same, as a constant where it is one at points y (n, d) and all times."""
        if not self.steady:
            return self
        values = torch.stack([self(y, t) for t in times])
        first = values[0, 0]
        if not (values - first).abs().max() <= _SAME * first.abs().max():
            return self
        number = self.diagonal and bool((first - first[0]).abs().max() <= _SAME * first[0].abs())
        return Diffusion(float(first[0]) if number else first.cpu().numpy(), self.d)


class TurnedNoise:
    """D in linear coordinates, where it is the same at all points but not at all times."""

    def __init__(self, diffusion: Diffusion, inverse: np.ndarray, mask: np.ndarray):
        self.diffusion, self.inverse, self.mask = diffusion, inverse, mask

    def __call__(self, y, t):
        """(d, d), or (d,) where it is diagonal."""
        inverse, mask = (torch.from_numpy(array).to(y) for array in (self.inverse, self.mask))
        turned = mask * (inverse @ self.diffusion.matrix(y[:1], t)[0] @ inverse.T)
        return turned if torch.triu(mask, 1).any() else turned.diagonal()


def in_frame(equation: GeneralFokkerPlanck, frame: Any, times) -> GeneralFokkerPlanck:
    """An equation in linear coordinates.

    Parameters
    ----------
    equation : GeneralFokkerPlanck
        Without interaction, D the same at all points.
    frame
        A chart with an array ``root`` (d, d), its derivative.
    times : sequence of float
        When to look which entries of D are nothing but rounding.
    """
    drift, diffusion, _ = equation.terms
    inverse, zero = np.linalg.inv(frame.root), torch.zeros(1, equation.d, dtype=torch.float64)
    noises = np.array([diffusion.matrix(zero, t)[0].numpy() for t in times])
    turned = inverse @ noises @ inverse.T
    share = np.abs(turned) / np.maximum(np.abs(turned).max((1, 2), keepdims=True), 1e-300)
    mask = (share > np.where(np.eye(equation.d), _NOTHING, NOISE)).any(0)
    given: Any = mask * (turned[0] + turned[0].T) / 2
    if not diffusion.steady:
        given = TurnedNoise(diffusion, inverse, mask.astype(float))
    return GeneralFokkerPlanck(
        ChangedDrift(drift, frame), Diffusion(given, equation.d), regular=equation.regular
    )
