"""More modes, once there are two: many starts at once, until a round finds nothing new."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from .forward_check import modes_of

MOST_MODES = 100  # modes: a mixture of more is no proposal any more


def more_modes(
    potential,
    found: list[tuple],
    follow: Callable[[np.ndarray], list[tuple]],
    distinct: Callable[[list[tuple]], list[tuple]],
    generator: torch.Generator,
    *,
    n_starts: int = 256,
    n_rounds: int = 8,
) -> list[tuple]:
    """Search on around modes that were found.

    Half of the starts of a round are spread over the modes known so far and three times as far;
    the others are m_i + m_j - m_k for three of them: modes often stand in patterns (R. Storn and
    K. Price, "Differential evolution", 1997). All descend at once; only end points away from the
    known modes are looked at closely.

    Parameters
    ----------
    potential : Potential
    found : list of (centre, root, bound, definite)
        As the search of :func:`skfokker.bayes.laplace` makes them.
    follow, distinct : callable
        Gaussians from starts (k, d); a list without repetitions.
    generator : torch.Generator
    n_starts, n_rounds : int
    """
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    for _ in range(n_rounds):
        centres = np.stack([one[0] for one in found])
        k, d = centres.shape
        width = np.sqrt(centres.var(0) + np.mean([(one[1] ** 2).sum(1) for one in found], 0))
        factor = rng.uniform(1, 3, (n_starts // 2, 1))
        wide = centres.mean(0) + factor * width * rng.normal(size=(n_starts // 2, d))
        i, j, h = rng.integers(k, size=(3, n_starts // 2))
        starts = np.concatenate([wide, centres[i] + centres[j] - centres[h]])
        value = potential(torch.from_numpy(starts)).detach()
        starts = starts[torch.isfinite(value).numpy()]
        if not len(starts):
            return found
        root = torch.diag(torch.from_numpy(np.median([np.diag(one[1]) for one in found], 0)))
        ends = modes_of(potential, torch.from_numpy(starts), root, max_modes=MOST_MODES)[0].numpy()
        new = [end for end in ends if _away(end, found)]
        if not new:
            return found
        candidates = follow(np.stack(new))
        before = len(found)
        found = distinct(found + candidates)[:MOST_MODES]
        if len(found) <= before:
            return found
    return found


def _away(x: np.ndarray, found: list[tuple]) -> bool:
    """Whether x lies more than three standard deviations, per root d, from every mode."""
    lengths = [np.linalg.norm(np.linalg.solve(one[1], x - one[0])) for one in found]
    return min(lengths) > 3 * np.sqrt(len(x))
