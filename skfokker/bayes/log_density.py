"""Posteriors as users have them: torch, numpy, JAX, Stan or PyMC code becomes a potential."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from ..potentials import CallablePotential, DistributionPotential, NumpyPotential, Potential
from ..potentials.adapters import central_differences, is_differences, to_numpy
from ..potentials.base import as_dimension
from ..potentials.boundaries import refuse_periodic
from ..potentials.foreign import ask


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
        value = ask(self.function, x, "log_density")
        if not isinstance(value, Tensor) or tuple(value.shape) != (len(x),):
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"log_density must map a tensor of shape {tuple(x.shape)} to one log density a "
                f"row, shape ({len(x)},), got {shape}; "
                + (
                    "try .squeeze(1) on the result."
                    if shape == (len(x), 1)
                    else "sum over the parameters with .sum(1), not over the points, or wrap a "
                    "function of one point in torch.vmap."
                )
            )
        return -value.to(x.dtype)


class NumpyLogDensity(NumpyPotential):
    """V = -log density for numpy code with a gradient.

    The functions get arrays of their own, which they may write into.

    Parameters
    ----------
    function : callable
        Log density. Maps (n, d) to (n,), or with ``batched=False`` (d,) to a number.
    gradient : callable, "differences" or None
        Its gradient: (n, d) to (n, d), or (d,) to (d,). None where ``function`` returns the pair
        (value, gradient). "differences" takes central differences of ``function``: 2 d values a
        point.
    n_features : int
    batched : bool, default=True
        Whether the functions take many points at once.
    step : float, default=1e-5
        Length of the differences, about 1e-5 of the scale of the parameters.
    """

    def __init__(
        self,
        function: Callable,
        gradient: Callable | str | None = None,
        n_features: int | None = None,
        batched: bool = True,
        step: float = 1e-5,
    ):
        self.function = function
        self.gradient = gradient  # type: ignore[assignment, method-assign]
        self.n_features = n_features
        self.batched = batched
        self.step = step

    def value_and_grad(self, x):
        points = to_numpy(x)
        if self.gradient is None:
            value, gradient = self._pairs(points)
        else:
            value, gradient = self._values(points), self._gradients(points)
        shapes = (len(x),), tuple(x.shape)
        return self._check(-value, shapes[0], "value", x), self._check(
            -gradient, shapes[1], "gradient", x
        )

    def _evaluate(self, points, x):
        value = self._pairs(points)[0] if self.gradient is None else self._values(points)
        return self._check(-value, (len(x),), "value", x)

    def _differentiate(self, points, x):
        gradient = self._pairs(points)[1] if self.gradient is None else self._gradients(points)
        return self._check(-gradient, tuple(x.shape), "gradient", x)

    def _values(self, points: np.ndarray) -> np.ndarray:
        if self.batched:
            return _numbers(self.function(points.copy()))
        return np.array([self._number(self.function(x.copy())) for x in points], dtype=float)

    def _gradients(self, points: np.ndarray) -> np.ndarray:
        if is_differences(self.gradient, "gradient"):

            def values(at: np.ndarray) -> np.ndarray:
                like = torch.from_numpy(at)
                return self._check(self._values(at), (len(at),), "value", like).numpy()

            return central_differences(values, points, self.step)
        gradient: Any = self.gradient
        if self.batched:
            return _numbers(gradient(points.copy()))
        return np.array([_numbers(gradient(x.copy())) for x in points])

    def _pairs(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log densities (n,) and gradients (n, d) of a function that returns both."""
        if self.batched:
            value, gradient = self._pair(self.function(points.copy()))
            return _numbers(value), _numbers(gradient)
        pairs = [self._pair(self.function(x.copy())) for x in points]
        values = np.array([self._number(value) for value, _ in pairs], dtype=float)
        return values, np.array([_numbers(gradient) for _, gradient in pairs])

    @staticmethod
    def _pair(answer: Any) -> tuple[Any, Any]:
        if isinstance(answer, tuple | list) and len(answer) == 2:
            return answer[0], answer[1]
        raise TypeError(
            "The log density has no gradient: gradient is None, so the function must return the "
            f"pair (value, gradient), but it returned a {type(answer).__name__}. Give "
            "NumpyLogDensity(function, gradient, n_features), or gradient='differences', which "
            "takes 2 d values of the function for each."
        )

    @staticmethod
    def _number(value: Any) -> float:
        value = _numbers(value)
        if value.size != 1:
            raise ValueError(
                "With batched=False the log density must return one number for a point (d,), got "
                f"shape {value.shape}; sum over the parameters, or pass batched=True for a "
                "function of many points."
            )
        return float(value.reshape(()))

    @staticmethod
    def _check(result: np.ndarray, shape: tuple[int, ...], what: str, like: Tensor) -> Tensor:
        if result.shape != shape:
            hint = "pass batched=False for a function of one point"
            if result.shape == (*shape, 1):
                hint = "try result[:, 0]"
            raise ValueError(
                f"The {what} of the log density must have shape {shape} for points of shape "
                f"{tuple(like.shape)}, got {result.shape}; {hint}."
            )
        return torch.from_numpy(np.array(result, order="C")).to(like)


def _numbers(value: Any) -> np.ndarray:
    return np.asarray(value, dtype=float)


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
        _refuse_model(model)
        blocks = importlib.import_module("pymc.blocking")
        self.model = model
        initial = model.initial_point()
        start = {v.name: np.asarray(initial[v.name], dtype=float) for v in model.value_vars}
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
        super().__init__(self._one, None, self._point.data.size, batched=False)

    def get_params(self, deep=True):
        return {"model": self.model}

    def _by_name(self, u: np.ndarray) -> dict[str, np.ndarray]:
        return self._unravel(self._raveled(np.asarray(u, dtype=float), self._point.point_map_info))

    def _one(self, u: np.ndarray) -> tuple[float, np.ndarray]:
        values = self._by_name(u)
        return float(self._logp(values)), np.asarray(self._dlogp(values))

    @property
    def start(self) -> np.ndarray:
        """The model's initial point, (d,)."""
        return np.array(self._point.data, dtype=float)

    def constrain(self, u: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Named, constrained values of unconstrained points (n, d), as PyMC would store them.

        The log-Jacobian is already in the model's log density: zeros are returned for it.
        """
        rows = [self._constrain(self._by_name(x)) for x in u.detach().numpy()]
        values = {
            name: torch.from_numpy(np.stack([np.asarray(row[j], dtype=float) for row in rows]))
            for j, name in enumerate(self._names)
            if not name.endswith("__")
        }
        return values, torch.zeros(len(u), dtype=torch.float64)


def _refuse_model(model: Any) -> None:
    """Raise a ValueError where a PyMC model has no gradient, or nothing to be found."""
    free = list(model.value_vars)
    if not free:
        raise ValueError(
            "log_density is a PyMC model without free variables: all are observed or "
            "deterministic, so there is nothing to sample. Give a parameter a prior inside the "
            "model, or leave out observed= of what is to be found."
        )
    discrete = [v.name for v in free if np.dtype(v.dtype).kind not in "fc"]
    if discrete:
        raise ValueError(
            f"log_density is a PyMC model with the discrete variables {discrete}, which have no "
            "gradient: sum over their values (pymc.Mixture, or pymc_extras.marginalize), or use a "
            "sampler made for them."
        )
    names = [v.name for v in free]
    unused = [name for name in names if not np.prod(_shape_of(model, name))]
    if unused:
        raise ValueError(
            f"log_density is a PyMC model whose variables {unused} have no entries: their shape "
            "has a zero in it. Correct the shape or dims, or leave them out."
        )


def _shape_of(model: Any, name: str) -> tuple[int, ...]:
    return np.shape(model.initial_point()[name])


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
        potential = DistributionPotential(target)
        refuse_periodic(potential, target)
        return potential
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
