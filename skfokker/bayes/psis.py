"""Pareto-smoothed importance sampling: stable weights, and whether to trust them.

A. Vehtari, D. Simpson, A. Gelman, Y. Yao, J. Gabry, "Pareto smoothed importance sampling", Journal
of Machine Learning Research 25 (2024).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.special import logsumexp

MIN_TAIL = 5  # points in the tail below which no Pareto law is fitted


def psis(log_ratios: Any) -> tuple[np.ndarray, float]:
    """Smooth the largest importance weights.

    The M = ceil(min(n / 5, 3 sqrt(n))) largest ratios are replaced by the expected order statistics
    of a generalised Pareto law fitted to them, and no weight may exceed the largest raw one.

    Parameters
    ----------
    log_ratios : array-like (n,)
        log p - log q at draws from q, up to a constant; -inf where p vanishes. The sign matters: a
        log ratio is large where q has too little mass.

    Returns
    -------
    log_weights : ndarray (n,)
        Smoothed and normalised: their exponentials sum to 1.
    k : float
        Shape of the fitted law. Moments of the ratios of order below 1/k exist. Infinite where the
        tail has fewer than 5 distinct draws (few draws, or nearly all weights zero); -inf where all
        weights are equal, to rounding.

    Raises
    ------
    ValueError
        Where the ratios are not a vector, hold NaN or +inf, or are all -inf.

    Examples
    --------
    >>> import numpy as np
    >>> from skfokker.bayes import psis
    >>> x = np.random.default_rng(0).normal(size=4000)  # q = N(0, 1), p = N(0, 2)
    >>> log_weights, k = psis(0.25 * x**2)
    >>> 0.3 < k < 0.7
    True
    """
    log_ratios = check_log_ratios(log_ratios)
    x = log_ratios - log_ratios.max()
    n = len(x)
    if np.ptp(x) < 1e-12:
        return np.full(n, -math.log(n)), -math.inf
    length = math.ceil(min(n / 5, 3 * math.sqrt(n)))
    order = np.argsort(x, kind="stable")
    cut = max(x[order[-length - 1]] if length < n else x[order[0]], math.log(np.finfo(float).tiny))
    tail = order[-length:]
    tail = tail[x[tail] > cut]
    k = math.inf
    if len(tail) >= MIN_TAIL:
        threshold = math.exp(cut)
        # exp(x) - exp(cut) without cancellation
        excess = threshold * np.expm1(x[tail] - cut)
        k, scale = fit_generalized_pareto(excess)
        if math.isfinite(k):
            levels = (np.arange(len(tail)) + 0.5) / len(tail)
            smoothed = threshold + generalized_pareto_quantile(levels, k, scale)
            x[tail] = np.minimum(np.log(smoothed), 0.0)
        else:
            k = math.inf
    return x - logsumexp(x), float(k)


def fit_generalized_pareto(excess: np.ndarray) -> tuple[float, float]:
    """Shape k and scale of a generalised Pareto law on [0, inf), by empirical Bayes.

    The profile likelihood of b = -k / scale is averaged over a grid that follows the data; the
    shape is then shrunk towards 1/2 with the weight of ten observations (Vehtari et al. 2024,
    appendix G).

    Parameters
    ----------
    excess : ndarray (n,)
        Ascending, positive.

    References
    ----------
    J. Zhang and M. A. Stephens, "A new and efficient estimation method for the generalized Pareto
    distribution", Technometrics 51 (2009).
    """
    n = len(excess)
    n_grid = 30 + int(math.sqrt(n))
    quartile = excess[int(n / 4 + 0.5) - 1]
    if not (quartile > 0 and np.isfinite(excess[-1])):
        return math.inf, math.nan
    spacing = 1 - np.sqrt(n_grid / (np.arange(n_grid) + 0.5))
    b = 1 / excess[-1] + spacing / (3 * quartile)
    shape = np.log1p(-b[:, None] * excess).mean(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_likelihood = n * (np.log(-b / shape) - shape - 1)
    log_likelihood[~np.isfinite(log_likelihood)] = -np.inf
    posterior = np.exp(log_likelihood - logsumexp(log_likelihood))
    posterior[posterior < 10 * np.finfo(float).eps] = 0
    b_mean = posterior @ b / posterior.sum()
    k = float(np.log1p(-b_mean * excess).mean())
    scale = -k / b_mean
    return (n * k + 5) / (n + 10), float(scale)


def generalized_pareto_quantile(levels: np.ndarray, k: float, scale: float) -> np.ndarray:
    """Quantiles of the generalised Pareto law on [0, inf) at ``levels`` in (0, 1)."""
    if abs(k) < np.finfo(float).eps:
        return -scale * np.log1p(-levels)
    return scale * np.expm1(-k * np.log1p(-levels)) / k


def reliable_k(n: int) -> float:
    """Largest k at which n draws suffice: min(1 - 1 / log10(n), 0.7) (Vehtari et al. 2024)."""
    return min(1 - 1 / math.log10(max(n, 11)), 0.7)


def effective_sample_size(log_weights: np.ndarray) -> float:
    """Kish's 1 / sum w^2 of log weights (n,), normalised or not."""
    log_weights = np.asarray(log_weights, dtype=float)
    return float(np.exp(2 * logsumexp(log_weights) - logsumexp(2 * log_weights)))


def check_log_ratios(log_ratios: Any) -> np.ndarray:
    """A float64 copy (n,) of log importance ratios, with complaints."""
    x = np.array(log_ratios, dtype=float)
    if x.ndim != 1 or not len(x):
        raise ValueError(
            f"log_ratios must be a vector of log p - log q, one a draw, got shape {x.shape}; "
            "smooth one set of draws at a time."
        )
    if np.isnan(x).any() or (x == np.inf).any():
        raise ValueError(
            f"log_ratios holds {int(np.isnan(x).sum())} NaN and {int((x == np.inf).sum())} +inf "
            "entries: a proposal that gives no density to a draw of its own, or a log density "
            "that is not one; set log p to -inf outside the support."
        )
    if (x == -np.inf).all():
        raise ValueError(
            "log_ratios is -inf throughout: no draw lies in the support of the target. Start "
            "closer to it, or check the log density."
        )
    return x
