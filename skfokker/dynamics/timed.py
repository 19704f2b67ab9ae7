"""Potentials that are more, or less, than a function of points: of time too, or a drift alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..potentials.base import Potential, as_dimension
from .drift import gradient_of
from .terms import Term

_NODES = 16  # of the line integral that gives V of its gradient


class _OfTerm(Potential):
    """A potential made of one function of the user's, of a given dimension."""

    name: str
    shapes: tuple[str, ...]

    @property
    def n_features_in_(self) -> int:
        return as_dimension(self.n_features, "n_features")

    @property
    def term(self) -> Term:
        """The function, checked."""
        if "_term" not in self.__dict__:
            self._term = Term(self.function, self.name, self.n_features_in_, self.shapes)
        return self._term

    def __getstate__(self):
        state = dict(super().__getstate__())
        state.pop("_term", None)
        return state


class TimedPotential(_OfTerm):
    """V(x, t) at the time that it was last told.

    Parameters
    ----------
    function : callable
        V(x, t), shape (n,).
    n_features : int

    Attributes
    ----------
    time : float
        Set by whoever marches.
    """

    name, shapes = "the potential", ("n", "n1")
    steady = False
    time = 0.0

    def __init__(self, function: Callable, n_features: int):
        self.function = function
        self.n_features = n_features

    def __call__(self, x):
        return self.term(x, self.time or 0.0)

    def value_and_grad(self, x):
        return self(x.detach()).detach(), gradient_of(self.term, x, self.time or 0.0)

    def gradient(self, x):
        return gradient_of(self.term, x, self.time or 0.0)


class GradientDrift(_OfTerm):
    """The potential of a drift that is minus a gradient: V(x) = -int_0^1 b(s x) . x ds.

    Parameters
    ----------
    function : callable
        b(x), shape (n, d).
    n_features : int
    """

    name, shapes = "drift", ("nd",)

    def __init__(self, function: Callable, n_features: int):
        self.function = function
        self.n_features = n_features

    def __call__(self, x):
        """V, whose gradient for torch is -b.

        The line integral is a quadrature: exact where b is a polynomial of degree 30 along it.
        """
        with torch.no_grad():
            nodes, weights = np.polynomial.legendre.leggauss(_NODES)
            value = torch.zeros_like(x[:, 0])
            for s, w in zip((nodes + 1) / 2, weights / 2, strict=True):
                value -= float(w) * (self.term(float(s) * x.detach(), 0.0) * x.detach()).sum(1)
        return _WithGradient.apply(x, value, self.gradient(x))

    def value_and_grad(self, x):
        with torch.no_grad():
            return self(x.detach()), self.gradient(x)

    def gradient(self, x):
        return -self.term(x.detach(), 0.0)


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, value, gradient):
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return upstream[:, None] * gradient, None, None
