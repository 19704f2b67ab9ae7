"""What every potential offers: its values, and its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from ..cloning import CloneMixin
from .foreign import guarded

_PACKAGE = __name__.partition(".")[0]


class Potential(CloneMixin, BaseEstimator):
    """A potential V: R^d -> R, the drift of the equation being -grad V (equation (5)).

    Holds hyper-parameters only, so that it clones like any scikit-learn component. A new
    potential has to write ``__call__``; it may set ``n_features_in_`` (attribute or property)
    where its dimension is known, and override :meth:`value_and_grad` with a closed form. Both
    methods of a class outside this package get points of their own and are called with grad mode
    on, wherever they are called.

    Attributes
    ----------
    n_features_in_ : int
        Dimension d; absent where the potential works in any.
    log_normalizer : float
        Log of the integral of exp(-V); absent where unknown.
    has_walls : bool
        Whether V jumps on purpose, and whoever uses it puts that right by weights.
    """

    has_walls = False
    _unit_of_energy = 1.0  # of V, in units of the user's

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if cls.__module__.partition(".")[0] != _PACKAGE:
            for name in {"__call__", "value_and_grad"} & set(vars(cls)):
                setattr(cls, name, guarded(vars(cls)[name]))

    def __call__(self, x: Tensor) -> Tensor:
        """V at the points x (n, d), shape (n,), in the dtype and on the device of x."""
        raise NotImplementedError(f"{type(self).__name__} does not define __call__(x)")

    def value_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """V (n,) and grad V (n, d) at the points x (n, d).

        By reverse-mode differentiation here, also inside ``torch.no_grad()``; the result then
        carries no graph.
        """
        with torch.inference_mode(False), torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            value = self(x)
            (gradient,) = torch.autograd.grad(value.sum(), x)
        return value.detach(), gradient

    def gradient(self, x: Tensor) -> Tensor:
        """grad V (n, d) at x (n, d), for those that do not need V; may be cheaper."""
        return self.value_and_grad(x)[1]

    def _prepare(self) -> tuple[Tensor, ...]:
        """Tensors (float64, CPU) that depend on the hyper-parameters only."""
        return ()

    def _constants(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return :meth:`_prepare` in the dtype and on the device of x; computed once.

        Assigning a hyper-parameter renews it, changing an array in place does not.
        """
        parameters = tuple(value for name, value in vars(self).items() if name[0] != "_")
        known, cache = self.__dict__.get("_cache", ((), {}))
        if len(known) != len(parameters) or any(
            a is not b for a, b in zip(known, parameters, strict=True)
        ):
            cache = {None: self._prepare()}
            self._cache: tuple = (parameters, cache)
        key = (x.dtype, x.device)
        if key not in cache:
            cache[key] = tuple(c.to(device=x.device, dtype=x.dtype) for c in cache[None])
        return cache[key]

    def __getstate__(self):
        state = dict(super().__getstate__())
        state.pop("_cache", None)
        return state


def as_float64(value: Any, name: str) -> Tensor:
    """Turn a number, list, array or tensor into a float64 CPU tensor, finite throughout."""
    try:
        if not isinstance(value, Tensor):
            value = torch.from_numpy(np.array(value, dtype=np.float64))
        tensor = value.detach().to(device="cpu", dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be a real number or array, got {value!r}") from error
    if not torch.isfinite(tensor).all():
        raise ValueError(f"{name} must be finite, got {value!r}")
    return tensor


def as_dimension(d: Any, name: str = "d") -> int:
    """Check that d is an integer of at least 1."""
    if isinstance(d, bool) or not isinstance(d, int | np.integer) or d < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {d!r}")
    return int(d)


def as_covariance(value: Any, d: int, name: str = "covariance") -> Tensor:
    """Full covariance (d, d), float64, from a variance, d variances or a matrix.

    Raises
    ------
    ValueError
        Where the shape does not fit d, or the matrix is not symmetric positive definite.
    """
    given = as_float64(value, name)
    if given.ndim == 0:
        full = given * torch.eye(d, dtype=torch.float64)
    elif given.shape == (d,):
        full = torch.diag(given)
    elif given.shape == (d, d):
        full = given
    else:
        raise ValueError(
            f"{name} must be a number, {d} variances or a matrix ({d}, {d}) to fit the mean, "
            f"got shape {tuple(given.shape)}"
        )
    symmetric = torch.allclose(full, full.T, rtol=1e-8, atol=1e-12 * float(full.abs().max()))
    if not symmetric or int(torch.linalg.cholesky_ex(full).info):
        raise ValueError(f"{name} must be symmetric positive definite, got {value!r}")
    return (full + full.T) / 2
