"""The law of a fitted estimator at every time: draws, densities, scores, velocities, paths."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import DensityMixin, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from .distribution import TransportedNormal
from .flows.support import refuse_outside
from .trajectory import Trajectory
from .validation import as_points, as_times, resolve_device, torch_generator

_SAMPLE = 1  # the stream of a seed that draws are made from


class LawMixin(OneToOneFeatureMixin, TransformerMixin, DensityMixin):
    """Methods of an estimator that holds a march: ``times_``, ``thetas_``, ``velocities_``."""

    def sample(self, n_samples: int = 1, t=None, *, random_state=None) -> np.ndarray:
        """Independent draws from the law at time t.

        Parameters
        ----------
        n_samples : int, default=1
        t : float or array-like (n_samples,), optional
            Time, or one a draw; ``t_final_`` where not given.
        random_state : int, RandomState instance or None
            None takes that of the estimator.

        Returns
        -------
        ndarray (n_samples, d)
        """
        march = self._trajectory()
        z = self._latent(n_samples, random_state, march.device)
        return march.sample_from(z, as_times(t, self.t_final_, n_samples)).cpu().numpy()

    def paths(self, n_paths: int, times: ArrayLike, *, random_state=None) -> np.ndarray:
        """Curves of the deterministic flow, from independent draws at the start.

        Parameters
        ----------
        n_paths : int
        times : array-like (k,)
            Each in [0, ``t_final_``].
        random_state : int, RandomState instance or None
            None takes that of the estimator.

        Returns
        -------
        ndarray (k, n_paths, d)
            Each slice has the law of its time; each curve follows the velocity of
            :meth:`velocity`, not the noise of a diffusion. Most families push the same latent
            points along time, exactly; for mixtures of Gaussians, whose velocity is not the
            tangent of their map, it is integrated to 1e-6 of the spread a step.
        """
        march = self._trajectory()
        moments = np.asarray(times, dtype=float)
        if moments.ndim != 1:
            raise ValueError(f"times must have shape (k,), got shape {moments.shape}.")
        moments = np.asarray(as_times(moments, self.t_final_, len(moments)))
        z = self._latent(n_paths, random_state, march.device)
        return march.paths(z, moments)

    def at(self, t: float | None = None) -> TransportedNormal:
        """The law at time t (``t_final_`` where not given) as a torch distribution.

        Its ``log_prob`` is differentiable in the points.
        """
        return self._trajectory().law(as_times(t, self.t_final_))

    def log_density(self, X, t=None):
        """Log density of the law at time t.

        Parameters
        ----------
        X : array-like or Tensor (n, d)
        t : float or array-like (n,), optional
            Time, or one a row; ``t_final_`` where not given.

        Returns
        -------
        ndarray or Tensor (n,)
        """
        return self._evaluate("log_density", X, t)

    def grad_log_density(self, X, t=None):
        """Score grad log rho(t, x), shape (n, d); arguments as in :meth:`log_density`."""
        return self._evaluate("score", X, t)

    def velocity(self, X, t=None):
        """Velocity v with d rho/dt = -div(rho v), shape (n, d), in the units of X per time.

        It is one that moves the fitted law, exactly. Many fields do; that of least energy is
        -grad V - beta grad log rho up to the error of the fit, and affine maps, splines, mixtures
        and least-squares marches come close to it. Conditional densities (the default where
        coordinates interact) give the tangent of their triangular map, which differs from it by
        a field that does not change the law: for the probability current over rho take
        ``-gradient(X) - beta * grad_log_density(X, t)``. Arguments as in :meth:`log_density`.
        """
        return self._evaluate("velocity", X, t)

    def transform(self, X, t=None):
        """Points of the law at time t to the reference: N(0, I) if X has that law.

        Arguments as in :meth:`log_density`; shape (n, d).
        """
        return self._evaluate("latent", X, t)

    def inverse_transform(self, X, t=None):
        """Points of the reference N(0, I) to the law at time t; the inverse of :meth:`transform`.

        Arguments as in :meth:`log_density`; shape (n, d).
        """
        return self._evaluate("sample_from", X, t)

    def score_samples(self, X, t=None):
        """Log density at X (n, d), as :meth:`log_density`."""
        return self.log_density(X, t)

    def score(self, X, y=None, *, t=None, sample_weight=None) -> float:
        """Mean log density at X (n, d), weighted by ``sample_weight`` (n,); y is ignored."""
        log_density = self.log_density(X, t)
        if isinstance(log_density, Tensor):
            log_density = log_density.cpu().numpy()
        return float(np.average(log_density, weights=sample_weight))

    def _trajectory(self) -> Trajectory:
        check_is_fitted(self)
        return Trajectory(
            self.times_,
            self.thetas_,
            self.velocities_,
            self.flow_,
            self.n_features_in_,
            resolve_device(self.device),
        )

    def _evaluate(self, what: str, X: Any, t: Any) -> Any:
        march = self._trajectory()
        points, restore = as_points(self, X, march.device)
        if what not in ("log_density", "sample_from"):
            refuse_outside(march.flow, points)
        return restore(getattr(march, what)(points, as_times(t, self.t_final_, len(points))))

    def _latent(self, n: int, random_state: Any, device: torch.device) -> Tensor:
        if not isinstance(n, Integral) or isinstance(n, bool) or n < 1:
            raise ValueError(f"The number of samples must be an integer of at least 1, got {n!r}.")
        state = self.random_state if random_state is None else random_state
        generator = torch_generator(state, _SAMPLE)
        z = torch.randn(int(n), self.n_features_in_, generator=generator, dtype=torch.float64)
        return z.to(device)
