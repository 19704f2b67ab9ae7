"""Fitted models in a file that runs no code when it is read: safetensors with JSON metadata."""

from __future__ import annotations

import json
import os
import warnings
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

import skfokker

from . import densities, flows, initial, potentials, schemes
from .flows.base import Flow
from .potentials import Potential
from .schemes.base import Scheme

FORMAT_VERSION = 1
_ARRAYS = ("times_", "thetas_", "velocities_")
_PLAIN = ("n_features_in_", "t_final_", "initial_error_", "interrupted_", "history_")
_SPECS = ("flow_", "scheme_", "potential_")


class _NotPlain(TypeError):
    """A value that JSON and the components of this package cannot express."""


def save(model: Any, path: str | os.PathLike) -> None:
    """Write a fitted model to ``path``; see :meth:`ParametricFokkerPlanck.save`."""
    from safetensors.numpy import save_file

    content: dict[str, Any] = {"params": {}, "fitted": {}}
    left_out = []
    values = model.get_params(deep=False).items(), ((n, getattr(model, n, None)) for n in _SPECS)
    for part, pairs in zip(("params", "fitted"), values, strict=True):
        for name, value in pairs:
            try:
                content[part][name] = _encode(value)
            except _NotPlain as error:
                left_out.append(f"{name} ({error})")
    for name in _PLAIN:
        content["fitted"][name] = _encode(getattr(model, name))
    if hasattr(model, "feature_names_in_"):
        content["fitted"]["feature_names_in_"] = list(model.feature_names_in_)
    if left_out:
        warnings.warn(
            f"Left out of {os.fspath(path)}, because they are no plain values or components of "
            f"skfokker: {', '.join(left_out)}. They read as their defaults, and sample, "
            "log_density and the like will work.",
            UserWarning,
            stacklevel=3,
        )
    metadata = {
        "format": "skfokker",
        "format_version": str(FORMAT_VERSION),
        "skfokker_version": skfokker.__version__,
        "content": json.dumps(content),
    }
    arrays = {name: np.ascontiguousarray(getattr(model, name)) for name in _ARRAYS}
    save_file(arrays, path, metadata=metadata)


def load(kind: type, path: str | os.PathLike) -> Any:
    """Read a model of class ``kind``; see :meth:`ParametricFokkerPlanck.load`."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != "skfokker":
            raise ValueError(
                f"{os.fspath(path)} is a safetensors file, but not one of skfokker's: give a file "
                "written by the method save of a fitted model."
            )
        if int(metadata["format_version"]) > FORMAT_VERSION:
            raise ValueError(
                f"{os.fspath(path)} was written by skfokker {metadata['skfokker_version']} in "
                f"format {metadata['format_version']}, newer than the {FORMAT_VERSION} that "
                f"skfokker {skfokker.__version__} can read: upgrade skfokker."
            )
        arrays = {name: file.get_tensor(name) for name in _ARRAYS}
    content = json.loads(metadata["content"])
    model = kind(**{name: _decode(value) for name, value in content["params"].items()})
    fitted = {name: _decode(value) for name, value in content["fitted"].items()}
    if "feature_names_in_" in fitted:
        fitted["feature_names_in_"] = np.array(fitted["feature_names_in_"], dtype=object)
    potential = fitted.pop("potential_", None)
    if potential is None:
        model._dropped_potential = "left out of the file"
    else:
        model.potential_ = potential
    vars(model).update(arrays, **fitted, certificate_=None)
    return model


def _components() -> dict[str, type]:
    """The classes a file may name; nothing else is ever made on loading."""
    found = {"Gaussian": initial.Gaussian, "GaussianDensity": densities.GaussianDensity}
    for module in (flows, schemes, potentials, densities):
        pending = [Flow, Scheme, Potential]
        while pending:
            for kind in pending.pop().__subclasses__():
                pending.append(kind)
                if kind.__module__.startswith(module.__name__):
                    found[kind.__name__] = kind
    return found


def _encode(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return {"tuple": [_encode(item) for item in value]}
    if isinstance(value, list):
        return [_encode(item) for item in value]
    if isinstance(value, dict):
        return {"dict": {str(name): _encode(item) for name, item in value.items()}}
    if isinstance(value, np.ndarray) and value.dtype.kind in "bif":
        return {"array": value.tolist(), "dtype": str(value.dtype)}
    if isinstance(value, BaseEstimator) and _components().get(type(value).__name__) is type(value):
        # a sequence of layers is reached through its own parameter, hence not deep
        params = {name: getattr(value, name) for name in type(value)._get_param_names()}
        return {
            "component": type(value).__name__,
            "params": {name: _encode(item) for name, item in params.items()},
        }
    raise _NotPlain(type(value).__name__)


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "tuple" in value:
        return tuple(_decode(item) for item in value["tuple"])
    if "dict" in value:
        return {name: _decode(item) for name, item in value["dict"].items()}
    if "array" in value:
        return np.array(value["array"], dtype=value["dtype"])
    known = _components()
    if value["component"] not in known:
        raise ValueError(
            f"The file names the component {value['component']!r}, which skfokker "
            f"{skfokker.__version__} does not have: upgrade skfokker."
        )
    params = {name: _decode(item) for name, item in value["params"].items()}
    return known[value["component"]](**params)
