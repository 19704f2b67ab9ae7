"""The drift of an equation: what is given of it, and the part that the law itself adds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..potentials.base import Potential
from .terms import Term, not_finite

_PAIRS = 2**20  # pairs of points at a time between which W is asked


class Drift:
    """b(x, t) = -grad V + force, or what is given as ``drift``.

    Parameters
    ----------
    d : int
    potential : Potential or callable, optional
        V(x) or V(x, t).
    fields : sequence of (callable, str)
        Vector fields to add, and their names.
    """

    def __init__(self, d: int, potential: Any = None, fields=()):
        self.d, self.potential = d, potential
        self.fields = [Term(field, name, d, ("nd",)) for field, name in fields]
        self.scalar = None
        if potential is not None and not isinstance(potential, Potential):
            self.scalar = Term(potential, "the potential", d, ("n", "n1"))

    @property
    def terms(self) -> list[Term]:
        """The functions that it is made of, but for a potential that is no mere function."""
        return [*self.fields, *([self.scalar] if self.scalar is not None else [])]

    @property
    def steady(self) -> bool:
        """Whether none of it depends on time."""
        return all(term.steady for term in self.terms)

    def where(self, x: Tensor) -> Tensor:
        """The points of the user: those that messages name."""
        return x

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """b (n, d) at points x (n, d), finite or not."""
        out = torch.zeros_like(x)
        for field in self.fields:
            out = out + field(x, t)
        if self.scalar is not None:
            out = out - gradient_of(self.scalar, x, t)
        elif self.potential is not None:
            out = out - self.potential.value_and_grad(x)[1]
        return out


def gradient_of(scalar: Term, x: Tensor, t: float) -> Tensor:
    """Gradient (n, d) of a scalar function at x (n, d).

    Raises
    ------
    ValueError
        Where its answer does not depend on the points.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        value = scalar(x, t)
        if not value.requires_grad:
            raise ValueError(
                f"the output of {scalar.name} is detached from its argument, so it has no "
                "gradient: leave out .detach(), .item() and numpy."
            )
        (gradient,) = torch.autograd.grad(value.sum(), x)
    return gradient


class Interaction:
    """The mean field of a pair potential W: -E[grad W(x - X')], X' of the law.

    Parameters
    ----------
    function : callable
        W(r) or W(r, t) of differences r (n, d), even, shape (n,).
    d : int
    """

    name = "interaction"

    def __init__(self, function: Any, d: int):
        self.pair = Term(function, self.name, d, ("n", "n1"))
        self.steady = self.pair.steady
        self._check_even(d)

    def _check_even(self, d: int) -> None:
        generator = torch.Generator().manual_seed(3)
        r = torch.randn(8, d, dtype=torch.float64, generator=generator)
        there, back = self.pair(r, 0.0), self.pair(-r, 0.0)
        gap = float((there - back).abs().max())
        if gap > 1e-8 * float(there.abs().max()):
            raise ValueError(
                f"interaction must be an even function of the difference, W(r) = W(-r), but the "
                f"two differ by {gap:.2g}. W is the energy of a pair of particles at x and x', "
                "r = x - x'; a force that is not between pairs belongs into drift or force."
            )

    def slope(self, r: Tensor, t: float) -> Tensor:
        """grad W (n, d) at differences r (n, d)."""
        gradient = gradient_of(self.pair, r, t)
        at_zero = ~r.any(1)  # even: the gradient there is 0, whatever a norm makes of it
        return torch.where(at_zero[:, None], torch.zeros_like(gradient), gradient)

    def force(self, x: Tensor, crowd: Tensor, t: float) -> Tensor:
        """-mean_j grad W(x - crowd_j) at x (n, d)."""
        rows = max(1, _PAIRS // len(crowd))
        parts = []
        for part in x.split(rows):
            r = (part[:, None] - crowd).flatten(0, 1)
            parts.append(-self.slope(r, t).view(len(part), len(crowd), -1).mean(1))
        out = torch.cat(parts)
        if not torch.isfinite(out).all() and torch.isfinite(x).all():
            raise not_finite(out, x, t, self.name)
        return out
