"""What the numbers of a posterior mean, in words."""

from __future__ import annotations

import math

from .psis import reliable_k

REMEDIES = (
    "try a longer march or descent, a richer flow, another parametrisation (a centred hierarchy "
    "non-centred), or independence_metropolis with many draws"
)


def verdict(k: float, n: int) -> str:
    """One sentence on the importance weights of n draws, by Pareto k.

    Thresholds: Vehtari et al. (2024), min(1 - 1 / log10(n), 0.7), and 1.
    """
    if k == -math.inf:
        return "the weights are all equal: the fit is exact."
    limit = reliable_k(n)
    head = f"k = {k:.2f}: "
    if k <= limit:
        return head + "importance weights are reliable."
    if k <= 0.7:
        return head + (
            f"importance weights need more than these {n} draws (the limit here is {limit:.2f})."
        )
    if k < 1:
        return head + (
            f"do not use: weighted means converge too slowly, even with smoothing; {REMEDIES}."
        )
    return head + (
        f"do not use: weighted means need not converge at all, the fit misses mass; {REMEDIES}."
    )
