"""A march without a horizon: on until the free energy has stopped falling."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from scipy.integrate import trapezoid  # numpy has it under this name from 2.0 on
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from .fit import Fit
from .solver import Solver

EQUILIBRIUM = "equilibrium"  # what t_final may be in the place of a time

LEGS = 7  # the horizon is doubled six times: 64 relaxation times of the start


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


def solve_to_rest(solver: Solver, first: float) -> Fit:
    """March to ``first``, and on to twice the time reached, until the free energy rests.

    At rest is a march over whose last half the free energy fell by less than ``tol * beta``, or
    whose scheme says so itself (``at_rest`` in its last record). Where the last leg allowed is
    not at rest there is a ``ConvergenceWarning``.

    Parameters
    ----------
    solver : Solver
        Its ``horizon`` is set here, but for that of a run that is resumed; after the call it is
        the one last marched to.
    first : float
        Horizon of the first leg.
    """
    if solver.resumed is None:
        before = solver.continued
        if before is not None and _at_rest(before, solver):
            return before
        reached = 0.0 if before is None else float(before.trajectory.times[-1])
        solver.horizon = max(first, 2 * reached)
    for _ in range(LEGS):
        # only the last leg's own warnings are about the fit that is kept
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fit = solver.solve()
        asked = fit.stopped_by is not None or fit.certify_later is not None
        done = asked or _at_rest(fit, solver)
        for warning in caught:
            if done or not issubclass(warning.category, ConvergenceWarning):
                warnings.warn(warning.message, stacklevel=3)
        if done:
            return fit
        solver.continued, reached = fit, solver.horizon
        solver.horizon = 2 * reached
    fall = dissipated(fit.history, reached / 2)
    solver.horizon = reached
    warnings.warn(
        f"The free energy still fell by {fall:.2g} over the last half of the march to "
        f"t = {reached:g}, more than tol * beta = {solver.tol * solver.equation.beta:g}: not at "
        "equilibrium. Try initial='laplace', a larger tol, or t_final as a number and then "
        "warm_start=True.",
        ConvergenceWarning,
        stacklevel=3,
    )
    return fit


def _at_rest(fit: Fit, solver: Solver) -> bool:
    if fit.history[-1].get("at_rest"):
        return True
    fall = dissipated(fit.history, float(fit.trajectory.times[-1]) / 2)
    return fall < solver.tol * solver.equation.beta
