"""Equilibrium laws known by draws only: fit a density q, then V = -beta log q."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.mixture import BayesianGaussianMixture
from sklearn.mixture import GaussianMixture as SklearnMixture
from sklearn.neighbors import KernelDensity
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import (
    _check_sample_weight,
    check_is_fitted,
    has_fit_parameter,
    validate_data,
)
from torch import Tensor

from .potentials import GaussianMixture, Potential, Quadratic
from .potentials.base import as_float64


class GaussianDensity(DensityMixin, BaseEstimator):
    """Gaussian with the (weighted) mean and a shrunk covariance of the draws.

    Parameters
    ----------
    shrinkage : float in [0, 1] or "oas", default="oas"
        Share of the round covariance tr(S) / d I in the result. "oas" is the oracle approximating
        shrinkage of Y. Chen, A. Wiesel, Y. C. Eldar and A. O. Hero, "Shrinkage Algorithms for MMSE
        Covariance Estimation" (2010), equation (23).
    floor : float, default=1e-6
        Smallest variance of the result along any direction, relative to the largest.

    Attributes
    ----------
    mean_ : ndarray (d,)
    covariance_ : ndarray (d, d)
    n_features_in_ : int

    Examples
    --------
    >>> import numpy as np
    >>> from skfokker.densities import GaussianDensity
    >>> GaussianDensity(shrinkage=0.0).fit(np.array([[-1.0], [1.0]])).covariance_
    array([[1.]])
    """

    _parameter_constraints = {
        "shrinkage": [Interval(Real, 0, 1, closed="both"), StrOptions({"oas"})],
        "floor": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(self, shrinkage: float | str = "oas", floor: float = 1e-6):
        self.shrinkage = shrinkage
        self.floor = floor

    def fit(self, X, y=None, sample_weight=None) -> GaussianDensity:
        r"""Fit to draws X (n, d).

        Parameters
        ----------
        X : array-like (n, d)
        y : ignored
        sample_weight : array-like (n,), optional
            How often each row was seen: weight 2 is the same as the row given twice. Where they
            sum to less than their effective number :math:`(\sum w)^2 / \sum w^2`, as weights of
            an importance sampler do that sum to 1, that is the number of observations.
        """
        self._validate_params()
        X = validate_data(self, X, dtype=np.float64)
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        if len(X) < 2:
            raise ValueError(
                "A covariance cannot be estimated from n_samples = 1: give at least two rows."
            )
        used = weight > 0
        if not used.any():
            raise ValueError("All entries of sample_weight are zero: give at least one positive.")
        X, weight = X[used], weight[used]
        d, relative = X.shape[1], weight / weight.max()
        total = relative.sum()
        n = max(weight.sum(), total**2 / np.square(relative).sum())
        self.mean_ = relative @ X / total
        gap = X - self.mean_
        covariance = (relative[:, None] * gap).T @ gap / total
        covariance = (covariance + covariance.T) / 2
        variance = np.trace(covariance) / d
        if not variance > 1e-24 * np.square(self.mean_).sum():
            raise ValueError(
                "All rows of X (with a positive weight) are the same point, so X has no density: "
                "give draws that vary."
            )
        share = self.shrinkage
        if isinstance(share, str):
            share = _oas_shrinkage(covariance, n)
        covariance = (1 - share) * covariance + share * variance * np.eye(d)
        values, vectors = np.linalg.eigh(covariance)
        least = self.floor * values[-1]
        if values[0] < least:
            covariance = (vectors * np.maximum(values, least)) @ vectors.T
        self.covariance_ = (covariance + covariance.T) / 2
        return self

    def score_samples(self, X) -> np.ndarray:
        """Log density at X (n, d), shape (n,)."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        factor = np.linalg.cholesky(self.covariance_)
        z = np.linalg.solve(factor, (X - self.mean_).T)
        return -0.5 * np.square(z).sum(0) - _log_scale(self.covariance_)

    def score(self, X, y=None) -> float:
        """Mean log density at X (n, d)."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state=None) -> np.ndarray:
        """Draws (n_samples, d)."""
        check_is_fitted(self)
        z = check_random_state(random_state).standard_normal((n_samples, len(self.mean_)))
        return self.mean_ + z @ np.linalg.cholesky(self.covariance_).T

    def to_potential(self, beta: float) -> Potential:
        """V = -beta log density."""
        check_is_fitted(self)
        quadratic = Quadratic(self.mean_, self.covariance_)
        return DensityPotential(quadratic, beta, _log_scale(self.covariance_))


def _log_scale(covariance: np.ndarray) -> float:
    return 0.5 * float(np.linalg.slogdet(2 * math.pi * covariance)[1])


def _oas_shrinkage(covariance: np.ndarray, n: float) -> float:
    d = len(covariance)
    square, round_square = np.square(covariance).mean(), np.square(np.trace(covariance) / d)
    excess = (n + 1.0) * (square - round_square / d)
    return 1.0 if excess <= 0 else float(min((square + round_square) / excess, 1.0))


class DensityPotential(Potential):
    """beta (V + offset): minus beta times a log density whose potential is V up to a constant.

    Parameters
    ----------
    potential : Potential
        Minus the log density, up to a constant.
    beta : float
        Diffusion coefficient of the equation.
    offset : float, default=0
        The constant.
    """

    def __init__(self, potential: Potential, beta: float = 1.0, offset: float = 0.0):
        self.potential = potential
        self.beta = beta
        self.offset = offset

    @property
    def n_features_in_(self) -> int:
        return self.potential.n_features_in_

    def __call__(self, x):
        return self.beta * (self.potential(x) + self.offset)

    def value_and_grad(self, x):
        value, gradient = self.potential.value_and_grad(x)
        return self.beta * (value + self.offset), self.beta * gradient


class KernelPotential(Potential):
    """Minus the log of a Gaussian kernel density estimate.

    Parameters
    ----------
    centres : array-like (k, d)
    bandwidth : float
        Standard deviation of the kernel along every coordinate.
    weights : array-like (k,), optional
        Positive; divided by their sum. None is equal weights.
    """

    log_normalizer = 0.0

    def __init__(self, centres, bandwidth: float = 1.0, weights=None):
        self.centres = centres
        self.bandwidth = bandwidth
        self.weights = weights

    @property
    def n_features_in_(self) -> int:
        return np.shape(self.centres)[1]

    def _prepare(self) -> tuple[Tensor, ...]:
        centres = as_float64(self.centres, "centres")
        k, d = centres.shape
        weights = as_float64(np.ones(k) if self.weights is None else self.weights, "weights")
        log_scale = (weights / weights.sum()).log() - d * math.log(
            self.bandwidth * math.sqrt(2 * math.pi)
        )
        return centres, log_scale

    def _parts(self, x: Tensor) -> Tensor:
        centres, log_scale = self._constants(x)
        gaps = torch.cdist(x, centres, compute_mode="donot_use_mm_for_euclid_dist")
        return log_scale - 0.5 * (gaps / self.bandwidth).square()

    def __call__(self, x):
        return self.value_and_grad(x)[0] if not x.requires_grad else -self._parts(x).logsumexp(1)

    def value_and_grad(self, x):
        with torch.no_grad():
            parts = self._parts(x)
            nearby = torch.softmax(parts, 1) @ self._constants(x)[0]
            return -parts.logsumexp(1), (x - nearby) / self.bandwidth**2


def fit_density(component: Any, X: np.ndarray, sample_weight: np.ndarray | None) -> Any:
    """Fit a density component to draws X (n, d); weights only where the component takes them."""
    if sample_weight is None:
        return component.fit(X)
    if not has_fit_parameter(component, "sample_weight"):
        raise TypeError(
            f"sample_weight was given, but from_samples={component!r} does not take weights: "
            "leave sample_weight out, or use GaussianDensity or KernelDensity."
        )
    return component.fit(X, sample_weight=sample_weight)


def potential_of(density: Any, beta: float) -> Potential:
    """V = -beta log q for a fitted density q.

    Parameters
    ----------
    density : object
        Fitted; anything with ``to_potential(beta)``, or scikit-learn's ``GaussianMixture``,
        ``BayesianGaussianMixture`` or ``KernelDensity`` (Gaussian kernel).
    beta : float
        Diffusion coefficient.

    Raises
    ------
    TypeError, ValueError
        For other objects, and other kernels or metrics.
    """
    if hasattr(density, "to_potential"):
        return density.to_potential(beta)
    if isinstance(density, SklearnMixture | BayesianGaussianMixture):
        covariances = _full_covariances(density)
        mixture = GaussianMixture(density.means_, covariances, density.weights_)
        return DensityPotential(mixture, beta)
    if isinstance(density, KernelDensity):
        if density.kernel != "gaussian" or density.metric != "euclidean":
            raise ValueError(
                f"from_samples={density!r} has no smooth density: use KernelDensity with "
                "kernel='gaussian' and metric='euclidean'."
            )
        tree = density.tree_
        weights = None if tree.sample_weight is None else np.asarray(tree.sample_weight)
        kernel = KernelPotential(np.array(tree.data), float(density.bandwidth_), weights)
        return DensityPotential(kernel, beta)
    raise TypeError(
        f"from_samples={density!r} is no density this package can differentiate: use "
        "GaussianDensity, sklearn's GaussianMixture or KernelDensity, or an estimator with a "
        "method to_potential(beta)."
    )


def _full_covariances(mixture: SklearnMixture | BayesianGaussianMixture) -> np.ndarray:
    k, d = mixture.means_.shape
    covariances, kind = mixture.covariances_, mixture.covariance_type
    if kind == "full":
        return covariances
    if kind == "tied":
        return np.broadcast_to(covariances, (k, d, d)).copy()
    variances = covariances if kind == "diag" else covariances[:, None]
    return variances.reshape(k, -1)[:, :, None] * np.eye(d)
