"""Exact solutions for quadratic potentials and linear equations: the Ornstein-Uhlenbeck process."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike

from ..dynamics import Equation
from ..dynamics.reading import is_equation
from ..potentials import Potential, Quadratic, Zero
from .fields import read_fields
from .linear_equations import moments_at


def ornstein_uhlenbeck(
    potential: Potential | Equation | Callable,
    t: ArrayLike,
    *,
    beta: float = 1.0,
    mean0: ArrayLike | None = None,
    covariance0: ArrayLike | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of rho_t for V quadratic or zero, or a linear equation; rho_0 Gaussian.

    Closed forms for the former. For an equation, whose drift, diffusion and mean field may depend
    on time, an explicit Runge-Kutta method of order eight, to 1e-11 of their size.

    Parameters
    ----------
    potential : Quadratic, Zero or Equation
        V; ``Zero(d)`` is the heat equation. Of an equation, or V(x, t): drift and force between
        particles linear in x, D the same everywhere.
    t : float or array-like (k,)
        Times, at least 0; infinity is the equilibrium where there is one (of a potential).
    beta : float
        Diffusion coefficient, where an equation does not say it.
    mean0, covariance0 : array-like (d,) and (d, d), optional
        Those of rho_0; N(0, I) by default. The covariance may be singular.

    Returns
    -------
    mean, covariance : ndarray (d,) and (d, d), or (k, d) and (k, d, d)

    Raises
    ------
    TypeError
        Where the potential is none of these.
    ValueError
        Where an equation is not linear.
    """
    if is_equation(potential):
        said = None if mean0 is None else len(np.asarray(mean0))
        fields = read_fields(potential, said, beta, float(np.max(t)))
        return moments_at(fields, t, *_start(fields.d, mean0, covariance0))
    if isinstance(potential, Quadratic):
        mean, precision = (c.numpy() for c in potential._prepare())
    elif isinstance(potential, Zero):
        d = potential.n_features_in_
        mean, precision = np.zeros(d), np.zeros((d, d))
    else:
        raise TypeError(
            f"potential must be Quadratic or Zero, or an Equation that is linear, got {potential!r}"
        )
    return linear_moments(t, mean, precision, beta, *_start(len(mean), mean0, covariance0))


def _start(d, mean0, covariance0) -> tuple[np.ndarray, np.ndarray]:
    mean0 = np.zeros(d) if mean0 is None else np.asarray(mean0, dtype=float)
    covariance0 = np.eye(d) if covariance0 is None else np.asarray(covariance0, dtype=float)
    return mean0, covariance0


def linear_moments(
    t: ArrayLike,
    center: np.ndarray,
    hessian: np.ndarray,
    beta: float,
    mean0: np.ndarray,
    covariance0: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Moments of dX = -hessian (X - center) dt + sqrt(2 beta) dB, the Hessian symmetric.

    m(t) = center + e^{-At} (m_0 - center) and
    S(t) = e^{-At} S_0 e^{-At} + 2 beta int_0^t e^{-2As} ds; A may be singular or indefinite.
    Shapes as in :func:`ornstein_uhlenbeck`.
    """
    times = np.atleast_1d(np.asarray(t, dtype=float))
    if times.ndim > 1 or not (times >= 0).all():
        raise ValueError(f"t must be one time or a list of times, all at least 0, got {t!r}")
    rates, basis = np.linalg.eigh(hessian)
    rates[np.abs(rates) < 1e-14 * max(1.0, float(np.abs(rates).max()))] = 0.0
    curved = np.where(rates == 0, 1.0, rates)
    with np.errstate(invalid="ignore"):  # inf * 0 where t is infinite
        phase = np.where(rates == 0, 0.0, times[:, None] * rates)
        spread = np.where(rates == 0, 2 * times[:, None], -np.expm1(-2 * phase) / curved)
    decay = np.exp(-phase)
    start = basis.T @ covariance0 @ basis
    mean = center + (decay * (basis.T @ (mean0 - center))) @ basis.T
    core = decay[:, :, None] * start * decay[:, None, :]
    core[:, np.arange(len(rates)), np.arange(len(rates))] += beta * spread
    covariance = basis @ core @ basis.T
    covariance = (covariance + covariance.transpose(0, 2, 1)) / 2
    return (mean[0], covariance[0]) if np.ndim(t) == 0 else (mean, covariance)


def gaussian_log_density(x: ArrayLike, mean: ArrayLike, covariance: ArrayLike) -> np.ndarray:
    """Log density (n,) of N(mean, covariance) at x (n, d)."""
    x, mean = np.asarray(x, dtype=float), np.asarray(mean, dtype=float)
    factor = np.linalg.cholesky(np.asarray(covariance, dtype=float))
    z = scipy.linalg.solve_triangular(factor, (x - mean).T, lower=True)
    return (
        -0.5 * (z**2).sum(0)
        - np.log(np.diag(factor)).sum()
        - 0.5 * len(mean) * math.log(2 * math.pi)
    )


def kl_gaussians(
    mean0: ArrayLike, covariance0: ArrayLike, mean1: ArrayLike, covariance1: ArrayLike
) -> float:
    """KL(N(mean0, covariance0) | N(mean1, covariance1)), in nats.

    Free of cancellation: equal arguments give 0 to about 1e-16 d, small ones keep their digits.
    """
    mean0, mean1 = np.asarray(mean0, dtype=float), np.asarray(mean1, dtype=float)
    factor = np.linalg.cholesky(np.asarray(covariance1, dtype=float))
    half = scipy.linalg.solve_triangular(
        factor, np.asarray(covariance0, dtype=float) - factor @ factor.T, lower=True
    )
    excess = np.linalg.eigvalsh(scipy.linalg.solve_triangular(factor, half.T, lower=True))
    shift = scipy.linalg.solve_triangular(factor, mean0 - mean1, lower=True)
    if excess.min() <= -1:
        raise ValueError("covariance0 must be positive definite")
    return 0.5 * float((excess - np.log1p(excess)).sum() + (shift**2).sum())
