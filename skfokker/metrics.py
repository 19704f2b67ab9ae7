"""Distances between a fit and a reference: KL both ways, marginals, moments."""

from __future__ import annotations

import numpy as np
import torch

from .equation import log_normal
from .schemes.points import normal_grid, sobol_normal


def reference_points(fit, n: int = 2**14, seed: int = 0):
    """Points (n, d) and weights (n,) of N(0, I) for averages over the fit.

    A one-dimensional quadrature, the same in all coordinates, where the map is separable;
    scrambled Sobol points otherwise.
    """
    d = fit.n_features_in_
    if fit.flow_.separable:
        return normal_grid(4001, d, half_width=8.0)
    return sobol_normal(n, d, seed), torch.full((n,), 1 / n, dtype=torch.float64)


def moments(fit, t: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean (d,) and covariance (d, d) of the fit at time t.

    Exact for affine maps, by quadrature for separable ones, else over 2**16 Sobol points.
    """
    d = fit.n_features_in_
    if fit.flow_.affine:
        corners = fit.inverse_transform(np.vstack([np.zeros(d), np.eye(d)]), t=t)
        root = (corners[1:] - corners[0]).T
        return corners[0], root @ root.T
    z, weights = reference_points(fit, 2**16)
    y, w = fit.inverse_transform(z.numpy(), t=t), weights.numpy()
    mean = w @ y
    if fit.flow_.separable:
        return mean, np.diag(w @ (y - mean) ** 2)
    return mean, (y - mean).T @ ((y - mean) * w[:, None])


def marginals(fit, t: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points y (n, d), log densities of the marginals there (n, d), and weights (n,).

    For separable fits; column i is a quadrature of the i-th marginal.
    """
    z, weights = reference_points(fit)
    theta = torch.as_tensor(fit._trajectory().at(t)[0])
    linearization = fit.flow_.linearize(theta, z)
    log_density = log_normal(z[:, :1])[:, None] - linearization.coordinate_slope().log()
    return linearization.y.numpy(), log_density.numpy(), weights.numpy()


def marginal_kl(fit, problem, t: float) -> np.ndarray:
    """KL(fit_i | exact_i) of every coordinate (d,), by quadrature; for separable fits.

    ``problem`` has ``marginal(i)`` with ``log_density(x, t)``.
    """
    y, log_fit, weights = marginals(fit, t)
    exact = [problem.marginal(i).log_density(y[:, i], t) for i in range(y.shape[1])]
    return weights @ (log_fit - np.stack(exact, 1))


def kl_to_exact(fit, problem, t: float, n: int = 2**14, seed: int = 0) -> float:
    """KL(fit | exact) in nats; a sum over marginals where both are products."""
    if fit.flow_.separable and hasattr(problem, "marginal"):
        return float(marginal_kl(fit, problem, t).sum())
    z = sobol_normal(n, fit.n_features_in_, seed).numpy()
    y = fit.inverse_transform(z, t=t)
    return float(np.mean(fit.log_density(y, t) - problem.log_density(y, t)))


def kl_from_exact(fit, problem, t: float, n: int = 20_000, seed: int = 0) -> float:
    """KL(exact | fit) in nats, over exact samples."""
    y = problem.sample(n, t, seed)
    return float(np.mean(problem.log_density(y, t) - fit.log_density(y, t)))
