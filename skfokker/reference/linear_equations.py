"""Moments of linear equations of any kind, by an accurate solver of their differential equations.

dX = (a(t) + A(t) X - K(t) (X - E[X])) dt + sigma(t) dB :
m' = a + A m ,   S' = (A - K) S + S (A - K)^T + 2 D .
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.integrate import solve_ivp

from .fields import Fields, read_fields

_SMALL = 1e-9


class LinearMoments:
    """Mean and covariance at any time up to a horizon, to 1e-11 of their size.

    Parameters
    ----------
    fields : Fields
        Drift and force between particles linear in x, D the same everywhere.
    t_end : float
    mean0, covariance0 : ndarray (d,) and (d, d)

    Raises
    ------
    ValueError
        Where the equation is not linear.
    """

    def __init__(self, fields: Fields, t_end: float, mean0: np.ndarray, covariance0: np.ndarray):
        self.fields, self._d = fields, fields.d
        for t in (0.0, 0.37 * t_end, t_end):
            self._check(t)
        start = np.concatenate([mean0, covariance0.ravel()])
        self._start, self._t_end, self._solved = start, t_end, None
        if t_end > 0:
            # of order eight; the tolerance is far below that of any comparison
            solved = solve_ivp(
                self._rates, (0, t_end), start, "DOP853", rtol=1e-12, atol=1e-13, dense_output=True
            )
            self._solved = solved.sol

    @classmethod
    def of(
        cls, equation, t_end: float, mean0: np.ndarray, covariance0: np.ndarray
    ) -> LinearMoments:
        """The moments of an :class:`~skfokker.Equation`."""
        fields = read_fields(equation, len(mean0), 1.0, t_end)
        return cls(fields, t_end, mean0, covariance0)

    def __call__(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """Mean (d,) and covariance (d, d) at time t."""
        if not 0 <= t <= self._t_end * (1 + 1e-12):
            raise ValueError(f"t must lie in [0, {self._t_end:g}], got {t!r}")
        state = self._start if self._solved is None else self._solved(t)
        covariance = state[self._d :].reshape(self._d, self._d)
        return state[: self._d].copy(), (covariance + covariance.T) / 2

    def _terms(self, t: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """a (d,), A, K and D (d, d) at time t: a linear function is known by its basis."""
        basis = np.concatenate([np.zeros((1, self._d)), np.eye(self._d)])
        values = self.fields.drift_at(basis, t)
        A = (values[1:] - values[0]).T
        K = np.zeros_like(A)
        if self.fields.interaction is not None:
            K = self.fields.interaction.slope(torch.eye(self._d, dtype=torch.float64), t).numpy().T
        return values[0], A, K, self.fields.diffusion_at(basis[:1], t)[0]

    def _rates(self, t: float, state: np.ndarray) -> np.ndarray:
        a, A, K, D = self._terms(t)
        mean, covariance = state[: self._d], state[self._d :].reshape(self._d, self._d)
        bend = (A - K) @ covariance
        return np.concatenate([a + A @ mean, (bend + bend.T + 2 * D).ravel()])

    def _check(self, t: float) -> None:
        a, A, K, D = self._terms(t)
        x = 3 * np.random.default_rng(0).standard_normal((8, self._d))
        pairs = [(self.fields.drift_at(x, t), a + x @ A.T, "drift")]
        if self.fields.interaction is not None:
            slope = self.fields.interaction.slope(torch.from_numpy(x), t).numpy()
            pairs.append((slope, x @ K.T, "interaction"))
        D_there = self.fields.diffusion_at(x, t)
        pairs.append((D_there, np.broadcast_to(D, D_there.shape), "diffusion"))
        for there, linear, name in pairs:
            if np.abs(there - linear).max() > _SMALL * (1 + np.abs(linear).max()):
                raise ValueError(
                    f"the equation is not linear: its {name} at t = {t:g} is not what a linear "
                    "one would be, so that its law is not Gaussian: see finite_volumes."
                )


def moments_at(
    fields: Fields, t: ArrayLike, mean0: np.ndarray, covariance0: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Moments at one time or several, shapes as of :func:`~.ornstein_uhlenbeck`."""
    times = np.atleast_1d(np.asarray(t, dtype=float))
    if times.ndim > 1 or not ((times >= 0) & np.isfinite(times)).all():
        raise ValueError(f"t must be one time or a list of times, finite and at least 0, got {t!r}")
    moments = LinearMoments(fields, float(times.max()), mean0, covariance0)
    means, covariances = zip(*map(moments, times), strict=True)
    if np.ndim(t) == 0:
        return means[0], covariances[0]
    return np.stack(means), np.stack(covariances)
