"""Independence Metropolis: chains that propose from the fit, and are exact in the limit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .convergence import effective_draws, rhat


@dataclass(frozen=True)
class Chains:
    """Chains of an independence Metropolis sampler.

    Attributes
    ----------
    draws : ndarray (n_chains, n_draws, d)
        Unconstrained.
    log_ratios : ndarray (n_chains, n_draws)
        log p - log q of every draw.
    acceptance : float
        Share of proposals that were accepted.
    """

    draws: np.ndarray
    log_ratios: np.ndarray
    acceptance: float

    @cached_property
    def rhat(self) -> np.ndarray:
        """Split, rank-normalised R-hat of every coordinate (d,)."""
        return rhat(self.draws)

    @cached_property
    def n_effective(self) -> np.ndarray:
        """Bulk effective number of draws of every coordinate (d,)."""
        return effective_draws(self.draws)

    @property
    def flat(self) -> np.ndarray:
        """All draws, one chain after another: (n_chains n_draws, d)."""
        return self.draws.reshape(-1, self.draws.shape[-1])

    def __str__(self) -> str:
        m, n, d = self.draws.shape
        worst, fewest = float(np.max(self.rhat)), float(np.min(self.n_effective))
        verdict = (
            "the chains agree"
            if worst < 1.01
            else "the chains do not agree yet: run them longer, or improve the fit"
        )
        return (
            f"independence Metropolis: {m} chains of {n} draws in dimension {d}, acceptance "
            f"{self.acceptance:.2f}, largest R-hat {worst:.3f}, smallest effective number "
            f"{fewest:.0f}: {verdict}."
        )


def metropolis_states(log_ratios: np.ndarray, uniforms: np.ndarray) -> tuple[np.ndarray, float]:
    """Which proposal every state of the chains is.

    A proposal x' from q in the place of x is accepted with probability
    min(1, p(x') q(x) / (p(x) q(x'))), which only needs the log ratios.

    Parameters
    ----------
    log_ratios : ndarray (n_chains, n_draws)
        log p - log q of the proposals, one row a chain; -inf is never accepted.
    uniforms : ndarray (n_chains, n_draws)
        On (0, 1).

    Returns
    -------
    states : ndarray of int (n_chains, n_draws)
        Column of the proposal that the chain is at.
    acceptance : float
        Share of proposals accepted.
    """
    m, n = log_ratios.shape
    states = np.empty((m, n), dtype=np.int64)
    # a chain starts at its first proposal inside the support
    inside = np.isfinite(log_ratios)
    if not inside.any(1).all():
        raise ValueError(
            "No proposal of a chain lies in the support of the target: the fit misses it. Start "
            "closer to the target, or use more draws."
        )
    current = inside.argmax(1)
    rows = np.arange(m)
    log_u, accepted = np.log(uniforms), 0
    for k in range(n):
        move = log_u[:, k] < log_ratios[:, k] - log_ratios[rows, current]
        move &= current != k
        accepted += int(move.sum())
        current = np.where(move, k, current)
        states[:, k] = current
    return states, accepted / max(m * (n - 1), 1)


def run_length(n_draws: int, n_chains: int) -> int:
    """Draws a chain so that ``n_chains`` of them hold at least n_draws."""
    return max(4, math.ceil(n_draws / n_chains))
