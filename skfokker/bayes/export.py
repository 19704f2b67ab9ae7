"""Posteriors for ArviZ, and starts with a mass matrix for emcee, BlackJAX, NumPyro and PyMC."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np


def to_arviz(posterior: Any, *, resampled: bool = False, random_state: Any = None) -> Any:
    """InferenceData (ArviZ 0.x) or DataTree (1.x), whichever is installed.

    Parameters
    ----------
    posterior : Posterior
    resampled : bool, default=False
        Put resampled, equally weighted draws in the group ``posterior``, for plots that know no
        weights. Otherwise they are the draws of the fit, and ``sample_stats`` holds their weights.
    random_state : int, RandomState instance or None
        For resampling.

    Returns
    -------
    arviz.InferenceData or xarray.DataTree
        With ``sample_stats``: ``log_p``, ``log_q``, ``log_weight`` (smoothed, normalised), and
        ``pareto_k``, the same number at every draw. With ``resampled=True``: no ``sample_stats``.

    Raises
    ------
    ImportError
        Where neither ArviZ nor arviz-base is installed.
    """
    if resampled:
        values, stats = posterior.by_name(posterior.resample(random_state=random_state)), None
    else:
        values = posterior.draws
        stats = {
            "log_p": posterior.log_p,
            "log_q": posterior.log_q,
            "log_weight": posterior.log_weights,
            "pareto_k": np.full(len(posterior.log_p), posterior.k),
        }
    groups = {"posterior": {name: np.asarray(value)[None] for name, value in values.items()}}
    if stats is not None:
        groups["sample_stats"] = {name: value[None] for name, value in stats.items()}
    arviz = _arviz()
    if hasattr(arviz, "InferenceData"):
        return arviz.from_dict(**groups)
    return arviz.from_dict(groups)


def chains_to_arviz(posterior: Any, chains: Any) -> Any:
    """Independence Metropolis chains of a posterior, for ArviZ's diagnostics."""
    groups = {"posterior": posterior.by_name(chains.draws)}
    arviz = _arviz()
    return arviz.from_dict(**groups) if hasattr(arviz, "InferenceData") else arviz.from_dict(groups)


def mcmc_start(posterior: Any, n_chains: int, *, random_state: Any = None) -> dict[str, Any]:
    """Where another sampler may start, and its metric.

    Parameters
    ----------
    posterior : Posterior
    n_chains : int
        Chains, or walkers.
    random_state : int, RandomState instance or None

    Returns
    -------
    dict
        ``positions`` (n_chains, d), unconstrained, resampled and distinct where the weights allow
        it: ``emcee.EnsembleSampler.run_mcmc(positions, ...)``, ``initial_position`` of BlackJAX,
        ``init_params`` of NumPyro. ``covariance`` (d, d): ``inverse_mass_matrix`` of BlackJAX and
        NumPyro, ``pm.QuadPotentialFull`` of PyMC. ``values``: the positions by name, constrained,
        each (n_chains, *shape): ``initvals`` of PyMC.
    """
    from ..validation import torch_generator

    state = posterior.random_state if random_state is None else random_state
    generator = torch_generator(state, 3000)
    seed = int(generator.initial_seed() % 2**63)
    rng = np.random.default_rng(seed)
    weights = posterior.weights / posterior.weights.sum()
    distinct = int((weights > 0).sum()) >= n_chains
    chosen = rng.choice(len(weights), n_chains, replace=not distinct, p=weights)
    positions = posterior.x[chosen]
    return {
        "positions": positions,
        "covariance": posterior.covariance(),
        "values": posterior.by_name(positions),
    }


def loo(log_likelihood: Any, posterior: Any) -> dict[str, Any]:
    """Leave-one-out predictive density from approximate draws.

    The ratios of draw s and observation i are log p - log q - log likelihood_i: correction of the
    approximation and leaving out in one, smoothed together (M. Magnusson, M. R. Andersen, J.
    Jonasson, A. Vehtari, "Bayesian leave-one-out cross-validation for large data", 2019).

    Parameters
    ----------
    log_likelihood : array-like (n_draws, n_observations)
        At ``posterior.draws``.
    posterior : Posterior

    Returns
    -------
    dict
        ``elpd``, its standard error ``error``, ``pointwise`` (n_observations,) and ``k``
        (n_observations,).
    """
    from scipy.special import logsumexp

    from .psis import psis

    log_likelihood = np.asarray(log_likelihood, dtype=float)
    if log_likelihood.ndim != 2 or len(log_likelihood) != len(posterior.x):
        raise ValueError(
            f"log_likelihood must have shape (n_draws, n_observations) with n_draws = "
            f"{len(posterior.x)}, got {log_likelihood.shape}."
        )
    pointwise, k = np.empty(log_likelihood.shape[1]), np.empty(log_likelihood.shape[1])
    for i, column in enumerate(log_likelihood.T):
        inside = np.isfinite(posterior.log_ratios)
        ratios = np.where(inside, posterior.log_ratios - column, -np.inf)
        log_weights, k[i] = psis(ratios)
        pointwise[i] = logsumexp(log_weights + np.where(inside, column, 0.0))
    return {
        "elpd": float(pointwise.sum()),
        "error": float(np.sqrt(len(pointwise)) * pointwise.std()),
        "pointwise": pointwise,
        "k": k,
    }


def _arviz() -> Any:
    """ArviZ, or the part of 1.x that makes data trees."""
    for name in ("arviz", "arviz_base"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return importlib.import_module(name)
        except ImportError:
            continue
    raise ImportError(
        "to_arviz needs ArviZ: pip install arviz (InferenceData or DataTree, by its version)."
    )
