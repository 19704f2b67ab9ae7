"""Fitted models in a file that runs no code when it is read: safetensors with JSON metadata."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from . import corrector, densities, flows, initial, potentials, schemes
from ._version import __version__
from .flows.base import Flow
from .potentials import Potential
from .schemes.base import Scheme

FORMAT_VERSION = 1
_ARRAYS = ("times_", "thetas_", "velocities_")
_PLAIN = ("n_features_in_", "t_final_", "initial_error_", "interrupted_", "history_")
_SPECS = {"flow_": Flow, "scheme_": Scheme, "potential_": Potential}
_DTYPES = {"bool", "int8", "int16", "int32", "int64", "uint8", "float16", "float32", "float64"}


class NotPlain(TypeError):
    """A value that JSON and the components of this package cannot express."""


def save(model: Any, path: str | os.PathLike) -> None:
    """Write a fitted model to ``path``; see :meth:`ParametricFokkerPlanck.save`."""
    require_safetensors()
    left_out = write(model, path)
    if left_out:
        warnings.warn(
            f"Left out of {os.fspath(path)}, because they are no plain values or components of "
            f"skfokker: {', '.join(left_out)}. They read as their defaults, and sample, "
            "log_density and the like will work.",
            UserWarning,
            stacklevel=3,
        )


def load(kind: type, path: str | os.PathLike) -> Any:
    """Read a model of class ``kind``; see :meth:`ParametricFokkerPlanck.load`."""
    require_safetensors()
    return read(kind, path)[0]


def require_safetensors() -> None:
    """Raise an ImportError that says what to install."""
    if importlib.util.find_spec("safetensors") is None:
        raise ImportError(
            "Checkpoints, save and load need the optional package safetensors: "
            "pip install 'skfokker[io]'."
        )


def write(
    model: Any,
    path: str | os.PathLike,
    arrays: Mapping[str, np.ndarray] | None = None,
    content: Mapping[str, Any] | None = None,
) -> list[str]:
    """Write a fitted model and more, atomically; returns what had to be left out, and why."""
    from safetensors.numpy import save as to_bytes

    content = {"params": {}, "fitted": {}, **(content or {})}
    left_out = []
    values = model.get_params(deep=False).items(), ((n, getattr(model, n, None)) for n in _SPECS)
    for part, pairs in zip(("params", "fitted"), values, strict=True):
        for name, value in pairs:
            try:
                content[part][name] = encode(value)
            except NotPlain as error:
                left_out.append(f"{name} ({error})")
    for name in _PLAIN:
        content["fitted"][name] = encode(getattr(model, name))
    if hasattr(model, "feature_names_in_"):
        content["fitted"]["feature_names_in_"] = list(model.feature_names_in_)
    arrays = {name: getattr(model, name) for name in _ARRAYS} | dict(arrays or {})
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    text = json.dumps(content)
    metadata = {
        "format": "skfokker",
        "format_version": str(FORMAT_VERSION),
        "skfokker_version": __version__,
        "content": text,
        "digest": _digest(text, arrays),
    }
    replace_file(path, to_bytes(arrays, metadata=metadata))
    return left_out


def replace_file(path: str | os.PathLike, data: bytes) -> None:
    """Write a file beside ``path`` and move it there: at no time is there half of one."""
    path = Path(path)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(beside)
        raise


def read(kind: type, path: str | os.PathLike) -> tuple[Any, dict[str, np.ndarray], dict]:
    """The model in a file, and all its arrays and metadata.

    Raises
    ------
    ValueError
        Where the file is damaged, of another kind, or newer than this version can read.
    """
    with damaged(path):
        arrays, metadata = _parse(path)
    if metadata.get("format") != "skfokker":
        raise ValueError(
            f"{os.fspath(path)} is a safetensors file, but not one of skfokker's: give a file "
            "written by the method save of a fitted model."
        )
    with damaged(path):
        version = int(metadata["format_version"])
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{os.fspath(path)} was written by skfokker {metadata.get('skfokker_version')} in "
            f"format {version}, newer than the {FORMAT_VERSION} that skfokker "
            f"{__version__} can read: upgrade skfokker."
        )
    with damaged(path):
        if metadata["digest"] != _digest(metadata["content"], arrays):
            raise ValueError("its checksum is wrong")
        content = json.loads(metadata["content"])
        return _model(kind, arrays, content), arrays, content


@contextmanager
def damaged(path: str | os.PathLike) -> Iterator[None]:
    """Whatever goes wrong in the block becomes one ValueError that names the file."""
    try:
        yield
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except (Exception, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise ValueError(
            f"{os.fspath(path)} is damaged, or was not written by skfokker ({reason:.300}). Use "
            "another copy of the file."
        ) from error


def _parse(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    from safetensors.numpy import load as from_bytes

    data = Path(path).read_bytes()
    arrays = from_bytes(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return arrays, header.get("__metadata__") or {}


def _digest(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name}{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def _model(kind: type, arrays: dict[str, np.ndarray], content: dict) -> Any:
    model = kind(**{name: decode(value) for name, value in content["params"].items()})
    model._validate_params()
    unknown = set(content["fitted"]) - set(_PLAIN) - set(_SPECS) - {"feature_names_in_"}
    if unknown:
        raise ValueError(f"it holds unknown attributes, {sorted(unknown)}")
    fitted = {name: decode(value) for name, value in content["fitted"].items()}
    for name, component in _SPECS.items():
        if not isinstance(fitted.get(name), component | None):
            raise ValueError(f"its {name} is no {component.__name__}")
    if "feature_names_in_" in fitted:
        fitted["feature_names_in_"] = np.array(fitted["feature_names_in_"], dtype=object)
    fitted |= {name: arrays[name] for name in _ARRAYS}
    _check_march(fitted)
    if fitted.get("flow_") is None:
        fitted.pop("flow_", None)  # code of the user's, left out of the file
    potential = fitted.pop("potential_", None)
    if potential is None:
        model._dropped_potential = "left out of the file"
    else:
        model.potential_ = potential
    vars(model).update(fitted, certificate_=None, correction_=None, plan_=None)
    return model


def _check_march(fitted: dict[str, Any]) -> None:
    times, thetas, velocities = (fitted[name] for name in _ARRAYS)
    if any(a.dtype != np.float64 or not np.isfinite(a).all() for a in (times, thetas, velocities)):
        raise ValueError("its arrays are not finite numbers")
    k = len(times) if times.ndim == 1 else 0
    if k < 1 or thetas.ndim != 2 or len(thetas) != k or thetas.shape != velocities.shape:
        raise ValueError("its arrays do not belong together")
    if times[0] != 0 or (np.diff(times) < 0).any() or times[-1] != fitted["t_final_"]:
        raise ValueError("its times do not run from 0 to t_final_")
    d, history, flow = fitted["n_features_in_"], fitted["history_"], fitted.get("flow_")
    if type(d) is not int or d < 1 or not isinstance(history, list) or len(history) != k:
        raise ValueError("its history or its dimension is none")
    if flow is not None and flow.n_parameters(d) != thetas.shape[1]:
        raise ValueError("its parameters are not those of its flow")
    if type(fitted["initial_error_"]) is not float or type(fitted["interrupted_"]) is not bool:
        raise ValueError("initial_error_ or interrupted_ is of a wrong type")


def _components() -> dict[str, type]:
    """The classes a file may name; nothing else is ever made on loading."""
    parts = (
        initial.Gaussian,
        densities.GaussianDensity,
        corrector.ParticleCorrector,
        schemes.ProjectedMetric,
        schemes.DualFeatures,
    )
    found: dict[str, type] = {kind.__name__: kind for kind in parts}
    kind: Any
    for module in (flows, schemes, potentials, densities):
        pending: list[type] = [Flow, Scheme, Potential]
        while pending:
            for kind in pending.pop().__subclasses__():
                pending.append(kind)
                if kind.__module__.startswith(module.__name__):
                    found[kind.__name__] = kind
    return found


def encode(value: Any) -> Any:
    """A plain value or a component of this package as JSON; raises NotPlain for others."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return {"tuple": [encode(item) for item in value]}
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {"dict": {str(name): encode(item) for name, item in value.items()}}
    if isinstance(value, np.ndarray) and str(value.dtype) in _DTYPES:
        return {"array": value.tolist(), "dtype": str(value.dtype)}
    kind: Any = type(value)
    if kind in _components().values():
        # a sequence of layers is reached through its own parameter, hence not deep
        params = {name: getattr(value, name) for name in kind._get_param_names()}
        return {
            "component": kind.__name__,
            "params": {name: encode(item) for name, item in params.items()},
        }
    raise NotPlain(type(value).__name__)


def decode(value: Any) -> Any:
    """The value that :func:`encode` wrote."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "tuple" in value:
        return tuple(decode(item) for item in value["tuple"])
    if "dict" in value:
        return {name: decode(item) for name, item in value["dict"].items()}
    if "array" in value:
        if value["dtype"] not in _DTYPES:
            raise ValueError(f"an array has the dtype {value['dtype']!r}")
        return np.array(value["array"], dtype=value["dtype"])
    known = _components()
    if value["component"] not in known:
        raise ValueError(
            f"The file names the component {value['component']!r}, which skfokker "
            f"{__version__} does not have: upgrade skfokker."
        )
    params = {name: decode(item) for name, item in value["params"].items()}
    return known[value["component"]](**params)
