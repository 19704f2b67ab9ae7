"""Potentials made of what users have: a torch function, a distribution, numpy code."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributions import Distribution, Transform

from .base import Potential, as_dimension
from .foreign import ask


class _KnownDimension(Potential):
    """A potential whose dimension is the hyper-parameter ``n_features``."""

    @property
    def n_features_in_(self) -> int:
        if self.n_features is None:
            raise AttributeError("n_features is not given")
        return as_dimension(self.n_features, "n_features")


class CallablePotential(_KnownDimension):
    """A torch function as a potential; the gradient is automatic.

    The function gets points of its own and is called with grad mode on, so it may write into its
    argument and differentiate by itself.

    Parameters
    ----------
    function : callable
        Maps a tensor (n, d) to a tensor (n,), differentiable. To be pickled it has to be
        importable (no lambda).
    n_features : int, optional
        Dimension d.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], n_features: int | None = None):
        self.function = function
        self.n_features = n_features

    def __call__(self, x):
        if isinstance(self.function, Potential):
            return self.function(x).to(x.dtype)
        return ask(self.function, x).to(x.dtype)

    def value_and_grad(self, x):
        if isinstance(self.function, Potential):  # only the dimension was missing
            return self.function.value_and_grad(x)
        return super().value_and_grad(x)


class DistributionPotential(Potential):
    """V = -beta log_prob of a torch distribution, +inf outside its support.

    Its equilibrium is the distribution itself.

    Parameters
    ----------
    distribution : torch.distributions.Distribution
        With an empty ``batch_shape``, and ``event_shape`` (d,) or ().
    beta : float
        Diffusion coefficient of the equation.
    """

    def __init__(self, distribution: Distribution, beta: float = 1.0):
        self.distribution = distribution
        self.beta = beta

    @property
    def n_features_in_(self) -> int:
        event, batch = self.distribution.event_shape, self.distribution.batch_shape
        if len(batch) or len(event) > 1:
            raise ValueError(
                f"distribution must have batch_shape () and event_shape (d,) or (), got "
                f"batch_shape {tuple(batch)} and event_shape {tuple(event)}; for independent "
                f"coordinates wrap it in torch.distributions.Independent(distribution, "
                f"{max(len(batch), 1)})"
            )
        return event[0] if event else 1

    def _converted(self, x: Tensor) -> Distribution:
        """The distribution in the dtype and on the device of x; made once."""
        known, cache = self.__dict__.get("_cache", (None, {}))
        if known is not self.distribution:
            cache = {}
            self._cache = (self.distribution, cache)
        key = (x.dtype, x.device)
        if key not in cache:
            cache[key] = _convert(self.distribution, x)
        return cache[key]

    def __call__(self, x):
        distribution = self._converted(x)
        points = x if distribution.event_shape else x[:, 0]
        try:
            inside = distribution.support.check(points)
        except NotImplementedError:
            inside = None
        if inside is None or inside.all():
            return -self.beta * distribution.log_prob(points).to(x.dtype)
        value = x.new_full((len(x),), torch.inf)
        density = distribution.log_prob(points[inside]).to(x.dtype)
        return value.index_put((inside,), -self.beta * density)


def _convert(item, like: Tensor):
    """Copy a distribution with its tensors as ``like``, without its argument checks."""
    if isinstance(item, Tensor):
        item = item.detach()
        return item.to(like) if item.is_floating_point() else item.to(like.device)
    if isinstance(item, Distribution | Transform):
        new = copy.copy(item)
        new.__dict__.update({key: _convert(part, like) for key, part in vars(item).items()})
        if isinstance(new, Distribution):
            new._validate_args = False  # outside the support is +inf here, not an error
        return new
    if type(item) in (list, tuple):
        return type(item)(_convert(part, like) for part in item)
    return item


class NumpyPotential(_KnownDimension):
    """Numpy code as a potential; the gradient has to be given, or comes from differences.

    Both functions get arrays of their own, which they may write into.

    Parameters
    ----------
    value : callable
        Maps an array (n, d), float64, to an array (n,).
    gradient : callable or "differences"
        Maps an array (n, d) to an array (n, d). "differences" takes central differences of
        ``value``: 2 d values a point.
    n_features : int, optional
        Dimension d.
    step : float, default=1e-5
        Length of the differences, about 1e-5 of the length over which V changes.
    """

    def __init__(
        self,
        value: Callable,
        gradient: Callable | str,
        n_features: int | None = None,
        step: float = 1e-5,
    ):
        self.value = value
        self.gradient = gradient  # type: ignore[assignment, method-assign]
        self.n_features = n_features
        self.step = step

    def __call__(self, x):
        return _NumpyFunction.apply(x, self)

    def value_and_grad(self, x):
        return self._evaluate(to_numpy(x), x), self._differentiate(to_numpy(x), x)

    def _evaluate(self, points: np.ndarray, x: Tensor) -> Tensor:
        return from_numpy(self.value(points), (len(x),), "value", x)

    def _differentiate(self, points: np.ndarray, x: Tensor) -> Tensor:
        if is_differences(self.gradient, "gradient"):

            def values(at: np.ndarray) -> np.ndarray:
                like = torch.from_numpy(at.copy())
                return from_numpy(self.value(at), (len(at),), "value", like).numpy()

            return torch.from_numpy(central_differences(values, points, self.step)).to(x)
        gradient: Any = self.gradient
        return from_numpy(gradient(points), tuple(x.shape), "gradient", x)


def is_differences(gradient: Any, name: str) -> bool:
    """Whether a gradient is to be taken by differences; a TypeError where it is no gradient."""
    if isinstance(gradient, str) and gradient == "differences":
        return True
    if not callable(gradient):
        raise TypeError(
            f"{name} must be a callable or 'differences', got {gradient!r}; 'differences' needs "
            "no gradient, but 2 d values for each"
        )
    return False


def central_differences(values: Callable, points: np.ndarray, step: float) -> np.ndarray:
    """Gradient (n, d) of ``values``, (k, d) to (k,), at points (n, d)."""
    n, d = points.shape
    shifts = np.maximum(step, 1e-10 * np.abs(points))[:, :, None] * np.eye(d)
    above, below = points[:, None] + shifts, points[:, None] - shifts
    length = np.einsum("nii->ni", above - below)  # as the points are rounded
    both = np.concatenate([above.reshape(-1, d), below.reshape(-1, d)])
    rise = np.subtract(*np.asarray(values(both), dtype=float).reshape(2, n, d))
    return rise / length


def to_numpy(x: Tensor) -> np.ndarray:
    """Points as a float64 array that is nobody else's."""
    return x.detach().to(device="cpu", dtype=torch.float64).numpy().copy()


def from_numpy(result: Any, shape: tuple[int, ...], name: str, like: Tensor) -> Tensor:
    """A copy of what numpy code returned, in the dtype and on the device of ``like``."""
    result = np.array(result, dtype=np.float64, order="C")
    if result.shape != shape:
        hint = ""
        if result.shape == (*shape, 1):
            hint = "; try result[:, 0]"
        elif name == "value" and result.shape == ():
            hint = "; sum over the coordinates with .sum(1), not over the points"
        raise ValueError(
            f"{name} must return an array of shape {shape} for points of shape "
            f"{tuple(like.shape)}, got {result.shape}{hint}"
        )
    return torch.from_numpy(result).to(like)


class _NumpyFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, potential):
        ctx.save_for_backward(x)
        ctx.potential = potential
        return potential._evaluate(to_numpy(x), x)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        (x,) = ctx.saved_tensors
        gradient = ctx.potential._differentiate(to_numpy(x), x)
        return grad_output[:, None] * gradient, None
