"""A march without a horizon: on and on until what it waits for has come to rest."""

from __future__ import annotations

import warnings
from typing import Protocol

import numpy as np
import torch
from scipy.integrate import trapezoid  # numpy has it under this name from 2.0 on
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from .fit import Fit
from .initial import initial_moments
from .solver import Solver

EQUILIBRIUM = "equilibrium"  # what t_final may be in the place of a time

LEGS = 7  # the horizon is doubled six times: 64 times the first


class Rest(Protocol):
    """What a march waits for."""

    def first(self, solver: Solver) -> float:
        """Horizon of the first leg."""

    def reached(self, fit: Fit, solver: Solver) -> bool:
        """Whether a march is at rest."""

    def complaint(self, fit: Fit, solver: Solver) -> str:
        """A sentence on a march that is still not at rest after its last leg."""


def relaxation_time(scale: Tensor, beta: float) -> float:
    """Time in which a Gaussian of the width of the start relaxes in its widest direction.

    Under the quadratic potential whose equilibrium has the covariance ``scale scale^T`` that is
    the largest eigenvalue over beta. The first horizon: where the start is as wide as the
    equilibrium (by ``initial="laplace"``) the march is at rest soon after.
    """
    return float(torch.linalg.matrix_norm(scale, 2)) ** 2 / beta


def dissipated(history: list[dict], since: float) -> float:
    r"""Free energy lost after the time ``since``, from the records of a march.

    The integral of -dH/dt, which is ``dissipation`` where a scheme records it, or
    E\|v\|^2 = E\|g\|^2 - E\|r\|^2 (``force`` and ``residual``). Both have far less noise than
    differences of H, which are taken where there is neither.
    """
    t, rate = np.array([record["t"] for record in history]), None
    if all("dissipation" in record for record in history):
        rate = np.array([max(record["dissipation"], 0.0) for record in history])
    elif all("force" in record and "residual" in record for record in history):
        rate = np.array([max(record["force"] - record["residual"], 0.0) for record in history])
    if rate is not None:
        before = np.interp(since, t, rate)
        keep = t > since
        return float(trapezoid(np.r_[before, rate[keep]], np.r_[since, t[keep]]))
    energy = np.array([record["free_energy"] for record in history], dtype=float)
    return float(np.interp(since, t, energy) - energy[-1])


class Equilibrium:
    """The free energy has stopped falling: by less than ``tol * beta`` over the last half.

    A scheme may say so itself (``at_rest`` in its last record).
    """

    def first(self, solver: Solver) -> float:
        scale = initial_moments(solver.initial, solver.equation.d, solver.device)[1]
        return relaxation_time(scale, solver.equation.beta)

    def reached(self, fit: Fit, solver: Solver) -> bool:
        if fit.history[-1].get("at_rest"):
            return True
        return self._fall(fit) < solver.tol * solver.equation.beta

    def complaint(self, fit: Fit, solver: Solver) -> str:
        return (
            f"The free energy still fell by {self._fall(fit):.2g} over the last half of the march "
            f"to t = {fit.trajectory.times[-1]:g}, more than tol * beta = "
            f"{solver.tol * solver.equation.beta:g}: not at equilibrium. Try initial='laplace', a "
            "larger tol, or t_final as a number and then warm_start=True."
        )

    @staticmethod
    def _fall(fit: Fit) -> float:
        return dissipated(fit.history, float(fit.trajectory.times[-1]) / 2)


def solve_to_rest(solver: Solver, rest: Rest) -> Fit:
    """March to a first horizon, and on to twice the time reached, until there is rest.

    Where the last leg allowed is not at rest there is a ``ConvergenceWarning``.

    Parameters
    ----------
    solver : Solver
        Its ``horizon`` is set here, but for that of a run that is resumed; after the call it is
        the one last marched to.
    rest : Rest
        What is waited for.
    """
    if solver.resumed is None:
        before = solver.continued
        if before is not None and rest.reached(before, solver):
            return before
        reached = 0.0 if before is None else float(before.trajectory.times[-1])
        solver.horizon = max(rest.first(solver), 2 * reached)
    for _ in range(LEGS):
        # only the last leg's own warnings are about the fit that is kept
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fit = solver.solve()
        done = fit.stopped_by is not None or rest.reached(fit, solver)
        for warning in caught:
            if done or not issubclass(warning.category, ConvergenceWarning):
                warnings.warn(warning.message, stacklevel=3)
        if done:
            return fit
        solver.continued, reached = fit, solver.horizon
        solver.horizon = 2 * reached
    solver.horizon = reached
    warnings.warn(rest.complaint(fit, solver), ConvergenceWarning, stacklevel=3)
    return fit
