"""log of the normalising constant: importance sampling and the optimal bridge."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logsumexp


class Evidence(NamedTuple):
    """A log normalising constant and its standard error (delta method)."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.4f} +- {self.error:.4f}"


def importance_evidence(log_ratios: np.ndarray) -> Evidence:
    """log of the mean of p / q over draws from q; log_ratios (n,) is log p - log q.

    The value is unbiased before the logarithm. The standard error is that of the raw ratios and
    means little where Pareto k exceeds 0.7.
    """
    n = len(log_ratios)
    log_mean = float(logsumexp(log_ratios) - math.log(n))
    ratios = np.exp(log_ratios - log_mean)
    return Evidence(log_mean, float(ratios.std(ddof=1) / math.sqrt(n)) if n > 1 else math.inf)


def bridge_evidence(
    log_ratios_q: np.ndarray,
    log_ratios_p: np.ndarray,
    n_effective: float | None = None,
    tolerance: float = 1e-10,
    max_iterations: int = 1000,
) -> Evidence:
    r"""Optimal bridge sampling between a proposal q and draws of the normalised target.

    Iterates :math:`Z = \frac{E_q[l / (s_1 l + s_2 Z)]}{E_p[1 / (s_1 l + s_2 Z)]}`, l = p/q being
    the ratios and s_1, s_2 the shares of draws. Errors are bounded where those of importance
    sampling are not, because neither mean has a heavy tail.

    Parameters
    ----------
    log_ratios_q : ndarray (n_q,)
        log p - log q at draws of q.
    log_ratios_p : ndarray (n_p,)
        The same at draws of p, from a chain say.
    n_effective : float, optional
        Effective number of the draws of p; n_p where not given.
    tolerance : float
        Change of log Z at which the iteration stops.
    max_iterations : int

    Raises
    ------
    RuntimeError
        Where the iteration does not settle: p and q hardly overlap.

    References
    ----------
    X.-L. Meng and W. H. Wong, "Simulating ratios of normalizing constants via a simple identity",
    Statistica Sinica 6 (1996). Error: S. Fruehwirth-Schnatter, "Estimating marginal likelihoods
    for mixture and Markov switching models using bridge sampling techniques" (2004).
    """
    n_q, n_p = len(log_ratios_q), len(log_ratios_p)
    effective = float(n_p if n_effective is None else min(n_effective, n_p))
    share_p, share_q = effective / (effective + n_q), n_q / (effective + n_q)
    offset = math.log(share_p) - math.log(share_q)

    def ratio(log_z: float) -> float:
        # logarithms of 1 / (s_1 l + s_2 Z), each mean in its own units
        by_q = log_ratios_q - np.logaddexp(offset + log_ratios_q, log_z)
        by_p = -np.logaddexp(offset + log_ratios_p, log_z)
        return float(logsumexp(by_q) - math.log(n_q) - logsumexp(by_p) + math.log(n_p))

    log_z = float(np.median(log_ratios_p))
    for _ in range(max_iterations):
        before, log_z = log_z, ratio(log_z)
        if abs(log_z - before) < tolerance:
            break
    else:
        raise RuntimeError(
            f"Bridge sampling did not settle in {max_iterations} iterations (log Z moved by "
            f"{abs(log_z - before):.1e} in the last): proposal and target hardly overlap. Use a "
            "better fit, or more draws."
        )
    # relative variance of the two means, with f_1 = p/Z over q and f_2 = q over p
    f_q = expit(log_ratios_q - log_z + offset) / share_p
    f_p = expit(-(log_ratios_p - log_z + offset)) / share_q
    variance = f_q.var() / f_q.mean() ** 2 / n_q + f_p.var() / f_p.mean() ** 2 / effective
    return Evidence(log_z, float(math.sqrt(variance)))
