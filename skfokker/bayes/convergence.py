"""Whether several chains have the same law: split, rank-normalised R-hat and effective size.

A. Vehtari, A. Gelman, D. Simpson, B. Carpenter, P.-C. Buerkner, "Rank-normalization, folding, and
localization: an improved R-hat for assessing convergence of MCMC", Bayesian Analysis 16 (2021).
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata


def rhat(chains: np.ndarray) -> np.ndarray:
    """Rank-normalised split R-hat, the larger of the bulk's and the folded (scale) one.

    Parameters
    ----------
    chains : ndarray (n_chains, n_draws) or (n_chains, n_draws, d)
        At least 4 draws a chain. One chain will do: it is split in halves.

    Returns
    -------
    ndarray () or (d,)
        1 where the chains agree; above 1.01 they do not yet. NaN for a constant coordinate.
    """
    halves = split(chains)
    folded = np.abs(halves - np.median(halves, axis=(0, 1)))
    return np.maximum(_rhat(rank_normalise(halves)), _rhat(rank_normalise(folded)))


def effective_draws(chains: np.ndarray) -> np.ndarray:
    """Bulk effective sample size of chains (n_chains, n_draws[, d]), by Geyer's initial sequence.

    The autocorrelations are those of the rank-normalised split chains; pairs of them are summed
    while they stay positive, made monotone.
    """
    z = rank_normalise(split(chains))
    m, n = z.shape[:2]
    size = 2 ** int(np.ceil(np.log2(2 * n)))
    transform = np.fft.rfft(z - z.mean(1, keepdims=True), size, axis=1)
    covariance = np.fft.irfft(np.abs(transform) ** 2, size, axis=1)[:, :n].real / n
    within = covariance[:, 0].mean(0) * n / (n - 1)
    variance = within * (n - 1) / n + z.mean(1).var(0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = 1 - (within - covariance.mean(0) * n / (n - 1)) / variance
    pairs = correlation[0 : n - n % 2 : 2] + correlation[1 : n - n % 2 + 1 : 2][: n // 2]
    positive = np.cumprod(pairs > 0, axis=0).astype(bool)
    pairs = np.where(positive, np.minimum.accumulate(np.where(positive, pairs, 0), axis=0), 0)
    time = np.maximum(2 * pairs.sum(0) - 1, 1 / np.log10(m * n))
    return m * n / time


def split(chains: np.ndarray) -> np.ndarray:
    """Chains (m, n[, d]) cut in halves: (2 m, n // 2[, d])."""
    chains = np.asarray(chains, dtype=float)
    if chains.ndim not in (2, 3) or chains.shape[1] < 4:
        raise ValueError(
            "chains must have shape (n_chains, n_draws) or (n_chains, n_draws, d) with at least 4 "
            f"draws, got shape {chains.shape}."
        )
    half = chains.shape[1] // 2
    return np.concatenate([chains[:, :half], chains[:, -half:]])


def rank_normalise(chains: np.ndarray) -> np.ndarray:
    """Normal scores of the ranks over all chains, coordinate by coordinate."""
    m, n = chains.shape[:2]
    ranks = rankdata(chains.reshape(m * n, -1), axis=0)
    return ndtri((ranks - 0.375) / (m * n + 0.25)).reshape(chains.shape)


def _rhat(z: np.ndarray) -> np.ndarray:
    n = z.shape[1]
    within = z.var(1, ddof=1).mean(0)
    between = z.mean(1).var(0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt((n - 1) / n + between / within)
