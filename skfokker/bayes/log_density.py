"""Posteriors as users have them: torch, numpy, JAX, Stan or PyMC code becomes a potential."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from ..potentials import CallablePotential, DistributionPotential, NumpyPotential, Potential
from ..potentials.base import as_dimension


@contextlib.contextmanager
def unvalidated() -> Iterator[None]:
    """Torch distributions that give -inf or NaN, not an exception, for a scale of 0, say."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


class TorchLogDensity(Potential):
    """V = -log density for a batched torch function.

    Parameters
    ----------
    function : callable
        Maps a tensor (n, d) to log densities (n,), differentiable; normalised or not.
    n_features : int
    """

    def __init__(self, function: Callable[[Tensor], Tensor], n_features: int):
        self.function = function
        self.n_features = n_features

    @property
    def n_features_in_(self) -> int:
        return as_dimension(self.n_features, "n_features")

    def __call__(self, x):
        with unvalidated():
            value = self.function(x)
        if not isinstance(value, Tensor) or tuple(value.shape) != (len(x),):
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"log_density must map a tensor of shape {tuple(x.shape)} to one log density a "
                f"row, shape ({len(x)},), got {shape}; sum over the parameters with .sum(1), not "
                "over the points, or wrap a function of one point in torch.vmap."
            )
        return -value.to(x.dtype)


class NumpyLogDensity(NumpyPotential):
    """V = -log density for numpy code with a gradient.

    Parameters
    ----------
    function : callable
        Log density. Maps (n, d) to (n,), or with ``batched=False`` (d,) to a number.
    gradient : callable or None
        Its gradient: (n, d) to (n, d), or (d,) to (d,). None where ``function`` returns the pair
        (value, gradient).
    n_features : int
    batched : bool, default=True
        Whether the functions take many points at once.
    """

    def __init__(
        self,
        function: Callable,
        gradient: Callable | None = None,
        n_features: int | None = None,
        batched: bool = True,
    ):
        self.function = function
        self.gradient = gradient
        self.n_features = n_features
        self.batched = batched

    def _pair(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log densities (n,) and gradients (n, d)."""
        if self.batched:
            if self.gradient is None:
                value, gradient = self.function(points)
            else:
                value, gradient = self.function(points), self.gradient(points)
        else:
            if self.gradient is None:
                pairs = [self.function(x) for x in points]
            else:
                pairs = [(self.function(x), self.gradient(x)) for x in points]
            value = np.array([float(pair[0]) for pair in pairs])
            gradient = np.array([np.asarray(pair[1], dtype=float) for pair in pairs])
        return np.asarray(value, dtype=float), np.asarray(gradient, dtype=float)

    def value_and_grad(self, x):
        points = x.detach().to("cpu", torch.float64).numpy().copy()
        value, gradient = self._pair(points)
        return self._check(-value, (len(x),), "value", x), self._check(
            -gradient, tuple(x.shape), "gradient", x
        )

    def _evaluate(self, points, x):
        if self.gradient is None:
            value = self._pair(points)[0]
        elif self.batched:
            value = self.function(points)
        else:
            value = np.array([float(self.function(point)) for point in points])
        return self._check(-np.asarray(value, dtype=float), (len(x),), "value", x)

    def _differentiate(self, points, x):
        return self._check(-self._pair(points)[1], tuple(x.shape), "gradient", x)

    @staticmethod
    def _check(result: np.ndarray, shape: tuple[int, ...], what: str, like: Tensor) -> Tensor:
        if result.shape != shape:
            raise ValueError(
                f"The {what} of the log density must have shape {shape} for points of shape "
                f"{tuple(like.shape)}, got {result.shape}; pass batched=False for a function of "
                "one point."
            )
        return torch.from_numpy(np.ascontiguousarray(result)).to(like)


def jax_log_density(function: Callable, n_features: int) -> NumpyLogDensity:
    """V = -log density for a JAX function of one point (d,), vectorised and compiled.

    For NumPyro: the function ``lambda u: -potential_fn(unravel(u))`` of
    ``numpyro.infer.util.initialize_model`` and ``jax.flatten_util.ravel_pytree``.

    Notes
    -----
    JAX computes in float32 unless ``jax.config.update("jax_enable_x64", True)`` was called, which
    is recommended: evidence and weights come from differences of log densities.
    """
    jax = importlib.import_module("jax")
    compiled = jax.jit(jax.vmap(jax.value_and_grad(function)))

    def pair(points: np.ndarray):
        # pad to a power of two, so that few shapes are compiled
        n = len(points)
        padded = np.concatenate([points, np.repeat(points[:1], 2 ** (n - 1).bit_length() - n, 0)])
        value, gradient = compiled(padded)
        return np.asarray(value)[:n], np.asarray(gradient)[:n]

    return NumpyLogDensity(pair, None, n_features)


def stan_log_density(model: Any) -> NumpyLogDensity:
    """V = -log density in the unconstrained space of a BridgeStan-like model.

    Parameters
    ----------
    model : object
        With ``param_unc_num() -> d`` and ``log_density_gradient(u) -> (value, gradient)``, of
        one point u (d,); exceptions of its log density (a Cholesky that fails) count as outside
        the support.
    """
    d = int(model.param_unc_num())

    def pair(u: np.ndarray):
        try:
            return model.log_density_gradient(u)
        except RuntimeError:
            return -np.inf, np.zeros(d)

    return NumpyLogDensity(pair, None, d, batched=False)


class PyMCLogDensity(NumpyLogDensity):
    """V = -log posterior of a PyMC model in its unconstrained space, names and transforms kept.

    Parameters
    ----------
    model : pymc.Model
    """

    def __init__(self, model: Any):
        pymc = importlib.import_module("pymc")
        blocks = importlib.import_module("pymc.blocking")
        self.model = model
        start = {
            v.name: np.asarray(model.initial_point()[v.name], dtype=float) for v in model.value_vars
        }
        self._point = blocks.DictToArrayBijection.map(start)
        self._unravel = blocks.DictToArrayBijection.rmap
        self._raveled = blocks.RaveledVars
        self._logp = model.compile_logp()
        self._dlogp = model.compile_dlogp()
        outputs = model.unobserved_value_vars
        self._names = [v.name for v in outputs]
        self._constrain = model.compile_fn(
            outputs, inputs=model.value_vars, on_unused_input="ignore"
        )
        del pymc
        super().__init__(self._one, None, self._point.data.size, batched=False)

    def get_params(self, deep=True):
        return {"model": self.model}

    def _values(self, u: np.ndarray) -> dict[str, np.ndarray]:
        return self._unravel(self._raveled(np.asarray(u, dtype=float), self._point.point_map_info))

    def _one(self, u: np.ndarray) -> tuple[float, np.ndarray]:
        values = self._values(u)
        return float(self._logp(values)), np.asarray(self._dlogp(values))

    @property
    def start(self) -> np.ndarray:
        """The model's initial point, (d,)."""
        return np.array(self._point.data, dtype=float)

    def constrain(self, u: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Named, constrained values of unconstrained points (n, d), as PyMC would store them.

        The log-Jacobian is already in the model's log density: zeros are returned for it.
        """
        rows = [self._constrain(self._values(x)) for x in u.detach().numpy()]
        values = {
            name: torch.from_numpy(np.stack([np.asarray(row[j], dtype=float) for row in rows]))
            for j, name in enumerate(self._names)
            if not name.endswith("__")
        }
        return values, torch.zeros(len(u), dtype=torch.float64)


def as_log_density(target: Any, n_features: int | None = None) -> Potential:
    """V = -log density out of what the user passed.

    Parameters
    ----------
    target : callable, Potential, Distribution, BridgeStan-like object or pymc.Model
        A callable maps a torch tensor (n, d) to log densities (n,). A ``Potential`` is V itself,
        and means the density exp(-V).
    n_features : int, optional
        d, where the target does not say.

    Raises
    ------
    TypeError, ValueError
        Where it is none of these, or its dimension is unknown.
    """
    if isinstance(target, Potential):
        if getattr(target, "n_features_in_", None) is None:
            return CallablePotential(target, as_dimension(n_features, "n_features"))
        return target
    if isinstance(target, Distribution):
        return DistributionPotential(target)
    if hasattr(target, "log_density_gradient") and hasattr(target, "param_unc_num"):
        return stan_log_density(target)
    if hasattr(target, "compile_dlogp") and hasattr(target, "value_vars"):
        return PyMCLogDensity(target)
    if not callable(target):
        raise TypeError(
            "log_density must be a callable from a torch tensor (n, d) to (n,), a Potential, a "
            "torch Distribution, a pymc.Model or an object with log_density_gradient, got a "
            f"{type(target).__name__}; wrap numpy code in NumpyLogDensity(function, gradient, d)."
        )
    if n_features is None:
        raise ValueError(
            "n_features is None, and a callable does not say how many parameters it takes: pass "
            "n_features=d, or constraints={name: (constraint, shape)}."
        )
    return TorchLogDensity(target, as_dimension(n_features, "n_features"))


class Wall(Potential):
    """V with a slope back to the inside wherever it is infinite or NaN.

    A march needs a finite potential at every point that its samples visit. Outside the support this
    one is V(centre) + height + |x - centre|^2 / 2 * stiffness. Weights must use the walled
    potential's ``potential``, which keeps log density -inf there.

    Parameters
    ----------
    potential : Potential
    centre : array-like (d,)
        Inside the support.
    stiffness, height : float
    """

    has_walls = True

    def __init__(
        self, potential: Potential, centre: Any, stiffness: float = 10.0, height: float = 50.0
    ):
        self.potential = potential
        self.centre = centre
        self.stiffness = stiffness
        self.height = height

    @property
    def n_features_in_(self) -> int:
        return self.potential.n_features_in_

    def _prepare(self):
        centre = torch.as_tensor(np.asarray(self.centre, dtype=float))
        base = self.potential(centre[None]).detach().reshape(())
        if not torch.isfinite(base):
            raise ValueError(
                f"centre={self.centre!r} of Wall lies outside the support: the log density there "
                f"is {-float(base)}; give a point inside."
            )
        return centre, base

    def __call__(self, x):
        return _WallFunction.apply(x, self)

    def value_and_grad(self, x):
        value, gradient = self.potential.value_and_grad(x)
        outside = ~(torch.isfinite(value) & torch.isfinite(gradient).all(1))
        if outside.any():
            centre, base = self._constants(x)
            gap = (x.detach() - centre)[outside]
            wall = base + self.height + 0.5 * self.stiffness * gap.square().sum(1)
            value = value.index_put((outside,), wall)
            gradient = gradient.index_put((outside,), self.stiffness * gap)
        return value, gradient


class _WallFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, wall):
        value, gradient = wall.value_and_grad(x)
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_output):
        (gradient,) = ctx.saved_tensors
        return grad_output[:, None] * gradient, None
