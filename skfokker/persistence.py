"""How a fitted estimator is pickled: numpy and specs only, stamped with versions."""

from __future__ import annotations

import copy
import importlib
import multiprocessing
import pickle
import warnings
from typing import Any

from sklearn.utils.validation import check_is_fitted

from ._version import __version__
from .cloning import detached

STATE_VERSION = 1

# From the version of an older state to the function that makes the next version of it.
MIGRATIONS: dict[int, Any] = {}


class PersistentMixin:
    """Pickling for an estimator whose ``potential_`` may be code that cannot be pickled.

    Such a potential (a lambda, a function defined inside another one) is left out with a warning
    that names it; everything that needs the trajectory only keeps working after loading. Worker
    processes (of joblib, of multiprocessing), to which the functions of a script are no functions
    of an importable module, send it back by value; where that cannot be done, whoever receives
    the model is warned.
    """

    def __getstate__(self) -> dict:
        state: dict = dict(super().__getstate__())  # type: ignore[call-overload]
        if state.pop("_certify_later", None) is not None:
            state["certificate_"] = None
        potential = state.get("potential_")
        if potential is not None:
            problem = _pickling_problem(potential)
            carried = None
            if problem is not None and _in_worker():
                carried = _by_value(potential)
            if carried is not None:
                state["potential_"] = carried
            elif problem is not None:
                del state["potential_"]
                name = " ".join(repr(potential).split())
                state["_dropped_potential"] = name
                if _in_worker():  # whose warnings nobody sees
                    state["_dropped_in_worker"] = problem
                warnings.warn(
                    f"potential_ = {name} cannot be pickled ({problem}) and is left out: "
                    "sample, log_density and the like will work on the loaded model, and to fit "
                    "further it needs the potential again. A function defined at the top of a "
                    "module that can be imported is kept.",
                    UserWarning,
                    stacklevel=2,
                )
        if self.__sklearn_is_fitted__():
            state["_skfokker_version"] = __version__
            state["_skfokker_state"] = STATE_VERSION
        return state

    def __setstate__(self, state: dict) -> None:
        state = dict(state)
        problem = state.pop("_dropped_in_worker", None)
        if problem is not None:
            warnings.warn(
                f"A worker process sent this model back without potential_ = "
                f"{state['_dropped_potential']}, which cannot be pickled ({problem}): to fit "
                "further, or for posterior(), it needs the potential again. A function defined at "
                "the top of a module that can be imported is kept.",
                UserWarning,
                stacklevel=2,
            )
        version = state.pop("_skfokker_state", None)
        written_by = state.pop("_skfokker_version", None)
        if version is not None and version > STATE_VERSION:
            warnings.warn(
                f"This model was saved by skfokker {written_by} (state version {version}), newer "
                f"than the one installed, {__version__} (state version {STATE_VERSION}): "
                "it may not work. Upgrade skfokker to be safe.",
                UserWarning,
                stacklevel=2,
            )
        while version is not None and version < STATE_VERSION:
            state = MIGRATIONS[version](state)
            version += 1
        if version is not None:
            state.setdefault("plan_", None)  # files of version 1 may have none
        super().__setstate__(state)  # type: ignore[misc]  # of BaseEstimator

    def save(self, path) -> None:
        """Write the fitted model to a safetensors file with JSON metadata.

        Reading it back runs no code, unlike a pickle. Kept are the trajectory, the parameters
        and the components of this package; a potential or a component of yours is left out, with
        a warning that names it.

        Parameters
        ----------
        path : str or path-like

        Raises
        ------
        ImportError
            Where the optional package safetensors is missing (``pip install skfokker[io]``).
        """
        from .safe_format import save

        check_is_fitted(self)
        save(self, path)

    @classmethod
    def load(cls, path) -> Any:
        """Read a model written by :meth:`save`.

        Raises
        ------
        ValueError
            Where the file is not of this package, or newer than this version can read.
        """
        from .safe_format import load

        return load(cls, path)

    def __deepcopy__(self, memo: dict) -> Any:
        # A copy within the process is no pickling: nothing has to be left out.
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        state = {name: detached(value) for name, value in self.__dict__.items()}
        if state.pop("_certify_later", None) is not None:
            state["certificate_"] = None
        new.__dict__.update(copy.deepcopy(state, memo))
        return new

    def __copy__(self) -> Any:
        new = type(self).__new__(type(self))
        new.__dict__.update(self.__dict__)
        return new

    def __getattr__(self, name: str) -> Any:
        # Reached only where the attribute is not there.
        if name == "certificate_" and "_certify_later" in self.__dict__:
            self.certificate_ = self._certify_later()
            del self._certify_later
            return self.certificate_
        if name == "potential_" and "_dropped_potential" in self.__dict__:
            raise AttributeError(
                f"potential_ is missing: it was {self.__dict__['_dropped_potential']}, which could "
                "not be pickled when this model was saved. Pass the potential to fit again."
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


class _ByValue:
    """Bytes that are unpickled to a potential, code included."""

    def __init__(self, content: bytes):
        self.content = content

    def __reduce__(self):
        return pickle.loads, (self.content,)


def _in_worker() -> bool:
    return multiprocessing.current_process().name != "MainProcess"


def _by_value(potential: Any) -> _ByValue | None:
    """The potential with its code, None where even that cannot be pickled."""
    try:
        try:
            cloudpickle = importlib.import_module("cloudpickle")
        except ImportError:  # older versions of joblib bring it along
            cloudpickle = importlib.import_module("joblib.externals.cloudpickle")
        return _ByValue(cloudpickle.dumps(potential))
    except Exception:  # pickling runs code of the user's, which may raise anything
        return None


def _pickling_problem(value: Any) -> str | None:
    """Why a value cannot be pickled, or None."""
    try:
        pickle.dumps(value)
    except Exception as error:  # pickling runs code of the user's, which may raise anything
        return f"{type(error).__name__}: {error}"
    return None
