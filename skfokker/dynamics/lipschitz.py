"""Lipschitz constants of an interaction and of the drift, as a user gives them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from .drift import Drift, Interaction

_SLACK = 1e-6  # relative


@dataclass(frozen=True)
class Lipschitz:
    """Constants that bound how an error grows through the mean field.

    Attributes
    ----------
    of_interaction : float
        L with |grad W(r) - grad W(r')| <= L |r - r'|.
    of_drift : float or None
        l with (x - y) . (b(x) - b(y)) <= l |x - y|^2; None where nobody said it.
    """

    of_interaction: float
    of_drift: float | None = None

    @classmethod
    def of(cls, given: Any, potential: Any, alone: bool) -> Lipschitz:
        """What ``lipschitz`` of an equation says, and what its potential says of its convexity.

        Parameters
        ----------
        given : float or (float, float)
        potential : callable or None
        alone : bool
            Whether the potential is all of the drift.

        Raises
        ------
        TypeError, ValueError
            Where it is neither a number nor a pair of them, or the first one is negative.
        """
        pair = given if isinstance(given, tuple | list) else (given,)
        if not 1 <= len(pair) <= 2 or not all(isinstance(number, Real) for number in pair):
            raise TypeError(
                "lipschitz must be a number L, of grad W, or a pair (L, l) with a one-sided "
                f"constant of the drift, got {given!r}."
            )
        numbers = [float(number) for number in pair]
        if not (all(map(math.isfinite, numbers)) and numbers[0] >= 0):
            raise ValueError(
                f"lipschitz must be finite, and that of the interaction at least 0, got {given!r}."
            )
        if len(numbers) == 1 and alone:
            convexity = 0.0 if potential is None else getattr(potential, "convexity", None)
            numbers += [] if convexity is None else [-float(convexity)]
        return cls(*numbers)

    def check(
        self, drift: Drift, interaction: Interaction, x: Tensor, times: Iterable[float]
    ) -> None:
        """See that the constants hold between some points.

        Raises
        ------
        ValueError
            Where they do not.
        """
        generator = torch.Generator().manual_seed(9)
        sizes = torch.tensor([0.1, 0.3, 1.0, 1.0, 3.0, 3.0, 6.0]).repeat(16)[:, None].to(x)
        shape = len(sizes), x.shape[1]
        r = sizes * torch.randn(shape, dtype=x.dtype, generator=generator).to(x)
        apart = sizes.flip(0) * torch.randn(shape, dtype=x.dtype, generator=generator).to(x)
        apart = torch.cat([0.01 * apart, apart])
        r = r.repeat(2, 1)
        for t in times:
            change = interaction.slope(r + apart, t) - interaction.slope(r, t)
            seen = float((change.norm(dim=1) / apart.norm(dim=1)).max())
            if seen > self.of_interaction * (1 + _SLACK) + 1e-12:
                raise ValueError(
                    f"lipschitz={self.of_interaction:g} is no Lipschitz constant of grad W: "
                    f"between two points at time t = {t:g} it changes by {seen:.3g} of their "
                    "distance. Give the largest eigenvalue, in size, that the Hessian of W has "
                    "anywhere."
                )
            if self.of_drift is None:
                continue
            change = ((drift(r + apart, t) - drift(r, t)) * apart).sum(1)
            seen = float((change / apart.square().sum(1)).max())
            if seen > self.of_drift + _SLACK * abs(self.of_drift) + 1e-12:
                raise ValueError(
                    f"lipschitz: l = {self.of_drift:g} is no one-sided constant of the drift: "
                    f"between two points at time t = {t:g} it is {seen:.3g}. Give the largest "
                    "eigenvalue that the symmetric part of its Jacobian has anywhere."
                )
