"""What users pass to the estimator, as tensors: points, times, horizons, seeds, devices."""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Callable
from numbers import Real
from typing import Any, overload

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data
from torch import Tensor

Restore = Callable[[Tensor], Any]

_SHORTEST = 1e-300  # time: a step may be 1e-6 of it


class SuggestingMixin:
    """``set_params`` that says what a misspelt name may have meant."""

    def set_params(self, **params):
        """Set parameters, also of components (``flow__n_layers``); see scikit-learn."""
        known = list(self.get_params())
        for name in params:
            owner = name.partition("__")[0]
            if name in known or (owner != name and owner in params):
                continue
            close = difflib.get_close_matches(name, known, n=1)
            if close:
                raise ValueError(
                    f"Invalid parameter {name!r} for {type(self).__name__}: did you mean "
                    f"{close[0]!r}? Valid parameters are {sorted(known)}."
                )
        return super().set_params(**params)


def as_points(estimator: Any, X: Any, device: torch.device) -> tuple[Tensor, Restore]:
    """Points (n, d) in float64 on ``device``, and the function that gives results back in kind.

    A torch tensor gets tensors of its dtype and device back, anything else numpy arrays.
    """
    if not isinstance(X, Tensor):
        array = validate_data(estimator, X, reset=False, dtype=np.float64)
        return as_tensor(array, device), lambda result: result.cpu().numpy()
    d, name = estimator.n_features_in_, type(estimator).__name__
    if X.ndim != 2:
        raise ValueError(f"Expected a 2D tensor (n, {d}), got shape {tuple(X.shape)} instead.")
    if X.shape[1] != d:
        raise ValueError(
            f"X has {X.shape[1]} features, but {name} is expecting {d} features as input."
        )
    if not X.is_floating_point():
        raise TypeError(f"X must hold real floating-point numbers, got {X.dtype}; try X.double().")
    if not torch.isfinite(X).all():
        raise ValueError("Input X contains NaN or infinity.")
    points = X.detach().to(device, torch.float64)
    return points, lambda result: result.to(X.device, X.dtype)


def as_tensor(array: np.ndarray, device: torch.device) -> Tensor:
    """Float64 tensor of an array; copies what is read-only (memory-mapped, say)."""
    if not array.flags.writeable or type(array) is not np.ndarray:
        array = np.array(array)
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, torch.float64)


@overload
def as_times(t: Any, t_final: float) -> float: ...


@overload
def as_times(t: Any, t_final: float, n: int) -> float | np.ndarray: ...


def as_times(t, t_final, n=None):
    """A time, or one a row (n,), within [0, t_final]; None is t_final.

    Raises
    ------
    TypeError, ValueError
        Where it is no number, has another shape, or lies outside the span.
    """
    if t is None:
        return t_final
    # times that have been in float32, or are in something shorter, reach the end as well
    slack = float(np.finfo(np.float32).eps)
    if isinstance(t, Tensor):
        t = t.detach().cpu()
        if t.is_floating_point():
            slack, t = max(slack, torch.finfo(t.dtype).eps), t.to(torch.float64)
        t = t.numpy()
    elif isinstance(t, np.ndarray | np.floating) and t.dtype.kind == "f":
        slack = max(slack, float(np.finfo(t.dtype).eps))
    try:
        times = np.asarray(t, dtype=float)
    except (TypeError, ValueError) as error:
        raise TypeError(f"t must be a time or an array of times, got {t!r}.") from error
    if n is None and times.size == 1:
        times = times.reshape(())
    if times.ndim and (n is None or times.shape != (n,)):
        wanted = "a number" if n is None else f"a number, or one time a row: shape ({n},)"
        raise ValueError(f"t must be {wanted}, got shape {times.shape}.")
    slack = slack * t_final
    outside = ~((times >= -slack) & (times <= t_final + slack))
    if outside.any():
        bad = float(times[outside].flat[0] if times.ndim else times)
        raise ValueError(
            f"t = {bad:g} is outside the fitted span [0, {t_final:g}]; to go further fit with a "
            f"larger t_final (warm_start=True continues from t = {t_final:g})."
        )
    times = np.clip(times, 0.0, t_final)
    return times if times.ndim else float(times)


def as_horizon(y: Any, t_final: Any, default: float | str) -> float | str:
    """t_final of a fit: the keyword, a real scalar in the place of y, or the parameter.

    A time, "equilibrium" or "stationary".
    """
    y, t_final = _only(y), _only(t_final)
    scalar = isinstance(y, Real | str)
    if scalar and t_final is not None:
        raise TypeError(
            f"t_final was given twice: {y!r} as the second argument and t_final={t_final!r}; give "
            "one of them."
        )
    given = y if scalar else default if t_final is None else t_final
    if isinstance(given, str) and given in ("equilibrium", "stationary"):
        return given
    try:
        horizon = float(given)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"t_final must be a number, 'equilibrium' or 'stationary', got {given!r}."
        ) from error
    if not (math.isfinite(horizon) and horizon > 0):
        raise ValueError(f"t_final must be a positive finite time, got {given!r}; try t_final=1.0.")
    if horizon < _SHORTEST:
        raise ValueError(
            f"t_final={given!r} is so short that its time steps would not be numbers: it must be "
            f"at least {_SHORTEST:g}. Choose another unit of time."
        )
    return horizon


def _only(value: Any) -> Any:
    """The number in an array, tensor or list of one, which is no column of labels."""
    if isinstance(value, np.ndarray | Tensor):
        return value.item() if math.prod(value.shape) == 1 else value
    if isinstance(value, list | tuple) and len(value) == 1:
        return _only(value[0])
    return value


def torch_generator(random_state: Any, stream: int) -> torch.Generator:
    """Torch generator from a scikit-learn ``random_state``; streams of one seed are independent."""
    seed = check_random_state(random_state).randint(np.iinfo(np.int32).max)
    words = np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))


def resolve_device(device: str) -> torch.device:
    """The device named, or the CPU with a warning where this machine has none of that kind."""
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device={device!r} is no device name: try 'cpu', 'cuda' or 'cuda:0'."
        ) from error
    available = {"cpu": True, "cuda": torch.cuda.is_available()}
    if available.get(resolved.type, getattr(torch, resolved.type, None) is not None):
        return resolved
    warnings.warn(
        f"device={device!r} is not available on this machine; the work is done on the CPU.",
        UserWarning,
        stacklevel=3,
    )
    return torch.device("cpu")
