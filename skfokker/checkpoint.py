"""A long fit written down as it goes, and taken up again with the same bits."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import clone

from . import safe_format
from .fit import Fit
from .flows.base import Flow
from .parallel import reduction
from .schemes.base import Step
from .tolerance import Effort
from .trajectory import Trajectory
from .units import Units, split_units
from .validation import as_tensor

# Parameters that may differ between a run and its continuation.
_FREE = {"t_final", "verbose", "device", "warm_start"}


@dataclass
class Checkpoint:
    """Where an interrupted run got to.

    Attributes
    ----------
    model : estimator
        Fitted up to there.
    t_start, horizon, interval : float
        Of its march and of its checkpoints.
    effort : Effort
        See :mod:`skfokker.tolerance`.
    n_before : int
        Stored times before ``t_start``, of an earlier march that this one continues.
    generator_state : Tensor of uint8
    known : ndarray of bool
        Whether the scheme gave the velocity of a step, or it is a difference.
    values : list of float
        The potential at three fixed points.
    """

    path: Path
    model: Any
    t_start: float
    horizon: float
    interval: float
    effort: Effort
    n_before: int
    generator_state: torch.Tensor
    known: np.ndarray
    values: list[float]

    @classmethod
    def read(cls, kind: type, path: str | os.PathLike) -> Checkpoint:
        """Read the file ``path``.

        Raises
        ------
        ValueError
            Where it is damaged, or no checkpoint.
        """
        path = Path(path)
        model, arrays, content = safe_format.read(kind, path)
        if "checkpoint" not in content:
            raise ValueError(
                f"resume={str(path)!r} is a finished model, not a checkpoint: read it with "
                f"{kind.__name__}.load, and go on with warm_start=True and a larger t_final."
            )
        with safe_format.damaged(path):
            state = dict(content["checkpoint"])
            state["effort"] = Effort(**state["effort"])
            generator = torch.from_numpy(arrays["generator"].copy())
            known = arrays["known"].astype(bool)
            torch.Generator().set_state(generator)
            if known.shape != (len(model.times_) - state["n_before"],):
                raise ValueError("its arrays do not belong together")
            return cls(path, model, generator_state=generator, known=known, **state)

    @property
    def initial_error(self) -> float:
        """KL divergence at t = 0."""
        return self.model.initial_error_

    @property
    def flow(self) -> Flow | None:
        """The family of the march; None where it was code of the user's."""
        return split_units(getattr(self.model, "flow_", None))[0]

    def steps(self, device: torch.device, units: Units) -> list[Step]:
        """The steps made since ``t_start``, in the units of their march."""
        model, rows = self.model, slice(self.n_before, None)
        columns = model.times_, model.thetas_, model.velocities_, model.history_
        return [
            Step(
                float(t),
                as_tensor(theta, device),
                as_tensor(velocity, device) if known else None,
                units.record(record),
            )
            for t, theta, velocity, record, known in zip(
                *(c[rows] for c in columns), self.known, strict=True
            )
        ]

    def continued(self, flow: Flow | None, device: torch.device) -> Fit | None:
        """The earlier march that this one goes on from; its last row is that of ``t_start``."""
        if not self.n_before:
            return None
        model, rows = self.model, slice(self.n_before + 1)
        flow = split_units(model.flow_)[0] if flow is None else clone(flow)
        march = Trajectory(
            model.times_[rows],
            model.thetas_[rows],
            model.velocities_[rows],
            flow,
            model.n_features_in_,
            device,
        )
        scheme: Any = getattr(model, "scheme_", None)  # left out where it is code of the user's
        return Fit(flow, scheme, march, model.history_[rows], model.initial_error_)

    def check(self, estimator: Any, potential: Any, t_final: Any) -> None:
        """Raise a ValueError where this is a checkpoint of another fit."""
        theirs = self.model.get_params(deep=False)
        for name, value in estimator.get_params(deep=False).items():
            try:
                mine = safe_format.encode(value)
            except safe_format.NotPlain:
                continue  # nor was it written
            if name not in _FREE and mine != safe_format.encode(theirs[name]):
                raise ValueError(
                    f"resume={str(self.path)!r} is a checkpoint of a fit with {name}="
                    f"{theirs[name]!r}, but this estimator has {name}={value!r}: set it to the "
                    "same, or leave resume out to start anew."
                )
        if t_final is not None and t_final != self.horizon:
            raise ValueError(
                f"resume={str(self.path)!r} is on its way to t_final={self.horizon:g}, not to "
                f"{t_final:g}: leave t_final out, and afterwards go on with warm_start=True."
            )
        if potential.n_features_in_ != self.model.n_features_in_:
            raise ValueError(
                f"resume={str(self.path)!r} is a checkpoint in dimension "
                f"{self.model.n_features_in_}, but the potential has dimension "
                f"{potential.n_features_in_}."
            )
        if not np.allclose(fixed_values(potential), self.values, rtol=1e-9, equal_nan=True):
            raise ValueError(
                f"resume={str(self.path)!r} is a checkpoint of a fit to another potential: at the "
                "same points it has other values. Pass the same potential, or leave resume out to "
                "start anew."
            )

    def check_flow(self, flow: Flow, d: int) -> None:
        """Raise a ValueError where the march was one of another family."""
        m = self.model.thetas_.shape[1]
        if flow.n_parameters(d) != m:
            raise ValueError(
                f"resume={str(self.path)!r} holds {m} parameters, but flow={flow!r} has "
                f"{flow.n_parameters(d)} in dimension {d}: use the flow of the fit that wrote it."
            )


class Checkpoints:
    """Where and how often a march is written down.

    Parameters
    ----------
    path : str or path-like
        The file; every checkpoint replaces the one before, atomically.
    interval : float or None
        Model time between two of them; None is a tenth of the march.
    snapshot : callable
        From a ``Fit`` to an estimator that is fitted so far.
    potential : Potential
        Its values at fixed points are stored, to recognise it again.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        interval: float | None,
        snapshot: Callable[[Any], Any],
        potential: Any,
    ):
        safe_format.require_safetensors()
        self.path, self.interval, self.snapshot = Path(path), interval, snapshot
        if not self.path.parent.is_dir():
            raise FileNotFoundError(
                f"checkpoint={str(path)!r}: the folder {str(self.path.parent)!r} does not exist; "
                "make it first."
            )
        if interval is not None and not (isinstance(interval, Real) and 0 < interval < math.inf):
            raise ValueError(
                f"checkpoint_interval must be a positive model time, got {interval!r}; leave it "
                "out for a tenth of the march."
            )
        self.values = fixed_values(potential)
        self.written: float | None = None

    def begin(
        self,
        t_start: float,
        horizon: float,
        effort: Effort,
        collect: Callable[[Sequence[Step]], Any],
        n_before: int,
    ) -> None:
        """Set out on a march."""
        self.t_start, self.length = t_start, self.interval or (horizon - t_start) / 10
        self.collect = collect
        self.state = {
            "t_start": t_start,
            "horizon": horizon,
            "interval": self.length,
            "effort": asdict(effort),
            "n_before": n_before,
            "values": self.values,
        }

    def after(self, t: float) -> float:
        """The time of the next checkpoint after t."""
        return self.t_start + self.length * (1 + math.floor((t - self.t_start) / self.length))

    def write(self, steps: Sequence[Step], generator: torch.Generator) -> None:
        """Replace the file; where that fails, warn and let the march go on."""
        if reduction().rank > 0:  # of processes that all hold the same, one writes
            return
        model = self.snapshot(self.collect(steps))
        arrays = {
            "generator": generator.get_state().numpy(),
            "known": np.array([step.velocity is not None for step in steps], dtype=np.uint8),
        }
        try:
            with warnings.catch_warnings():
                # code of the user's is left out; whoever resumes passes it again
                warnings.simplefilter("ignore", UserWarning)
                safe_format.write(model, self.path, arrays, {"checkpoint": self.state})
        except OSError as error:
            last = "there is none yet" if self.written is None else f"t = {self.written:g}"
            warnings.warn(
                f"checkpoint={str(self.path)!r} could not be written at t = {steps[-1].t:g} "
                f"({error.strerror or error}). The fit goes on; the last good checkpoint: {last}.",
                RuntimeWarning,
                stacklevel=2,
            )
        else:
            self.written = steps[-1].t


def find_checkpoint(kind: type, resume: Any, checkpoint: Any) -> Checkpoint | None:
    """The checkpoint to go on from, if there is one; arguments as for ``fit``."""
    if resume is None or resume is False:
        return None
    safe_format.require_safetensors()
    if resume is not True:
        return Checkpoint.read(kind, resume)
    if checkpoint is None:
        raise ValueError(
            "resume=True goes on from the file named in checkpoint, but checkpoint is None: give "
            "it a path, or give resume that of a checkpoint."
        )
    return Checkpoint.read(kind, checkpoint) if Path(checkpoint).exists() else None


def fixed_values(potential: Any, device: torch.device | str = "cpu") -> list[float]:
    """The potential at three fixed points: enough to tell it from another one."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, potential.n_features_in_, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        return [float(value) for value in potential(x.to(device))]
