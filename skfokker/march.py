"""One march through time: steps kept whatever stops it, and written down on the way."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.base import clone
from torch import Tensor

from .equation import FokkerPlanck
from .flows.base import Flow
from .parallel import reduction
from .progress import Progress
from .schemes.base import Scheme, Step

if TYPE_CHECKING:
    from .checkpoint import Checkpoints


def march(
    scheme: Scheme,
    equation: FokkerPlanck,
    flow: Flow,
    theta: Tensor,
    span: tuple[float, float],
    generator: torch.Generator,
    *,
    verbose: int = 0,
    checkpoints: Checkpoints | None = None,
    done: Sequence[Step] = (),
) -> tuple[list[Step], BaseException | None]:
    """Run a scheme over a span of time.

    Parameters
    ----------
    scheme, equation, flow, theta, generator
        As for :meth:`Scheme.steps`.
    span : (float, float)
        Start and end.
    verbose : int
        See :class:`Progress`.
    checkpoints : Checkpoints, optional
        Where the march is written down; it then restarts at every such time.
    done : sequence of Step
        Steps made earlier, of a march that is resumed; theta is then that of the last one.

    Returns
    -------
    steps : list of Step
        Those made, ``done`` included.
    stopped_by : exception or None
        What ended the march early, be it a KeyboardInterrupt, once a step had been made.
    """
    steps = list(done)
    start = steps[-1].t if steps else span[0]
    equation.move_to(start)
    before = time.perf_counter()
    verbose = verbose if reduction().rank == 0 else 0
    with Progress(verbose, start, span[1]) as progress:
        try:
            for step in _steps(scheme, equation, flow, theta, span, generator, checkpoints, steps):
                now = time.perf_counter()
                step.record.update(t=step.t, wall_time=now - before)
                steps.append(step)
                equation.move_to(step.t)
                before = now
                progress.update(step)
        except KeyboardInterrupt as stop:
            if not steps:
                raise
            return steps, stop
        except Exception as stop:  # of the potential, which may be anything, or of the scheme
            if len(steps) < 2:
                raise
            return steps, stop
    return steps, None


def _steps(
    scheme: Scheme,
    equation: FokkerPlanck,
    flow: Flow,
    theta: Tensor,
    span: tuple[float, float],
    generator: torch.Generator,
    checkpoints: Checkpoints | None,
    made: list[Step],
) -> Iterator[Step]:
    """The steps still to be made; ``made`` is kept up to date by whoever iterates."""
    if checkpoints is None:
        begun = made[-1].t if made else None
        for step in scheme.steps(equation, flow, theta, *span, generator):
            if step.t != begun:
                yield step
            begun = None
        return
    # A generator of steps cannot be written to disk. So the march starts anew from every
    # checkpoint, whether it was interrupted there or not: both then do the same.
    scheme = _restartable(scheme, span[1] - span[0])
    while not made or made[-1].t < span[1]:
        t, theta = (made[-1].t, made[-1].theta) if made else (span[0], theta)
        mark = checkpoints.after(t)
        for step in scheme.steps(equation, flow, theta, t, span[1], generator):
            if not made or step.t > made[-1].t:
                yield step
            if step.t > t and mark <= step.t < span[1]:
                checkpoints.write(made, generator)
                break


def _restartable(scheme: Scheme, length: float) -> Scheme:
    """A scheme whose longest step does not shrink with what remains of the span."""
    if getattr(scheme, "max_step", 0.0) is None:
        return clone(scheme).set_params(max_step=length / 50)
    return scheme


def plain(record: dict) -> dict:
    """A step's record with its numbers as plain numbers."""

    def as_plain(value):
        if isinstance(value, Tensor):
            value = value.detach().cpu().numpy()
        if isinstance(value, np.ndarray | np.generic):
            return value.item() if value.ndim == 0 else np.array(value)
        return value

    return {name: as_plain(value) for name, value in record.items()}
