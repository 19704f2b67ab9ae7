"""What an error is: KL both ways in nats, moments, entropy, likelihood of particles."""

from __future__ import annotations

import math
from copy import copy

import numpy as np

from ..potentials import GaussianMixture
from ..problems import (
    ExpectationProblem,
    GaussianProblem,
    PlanarProblem,
    PorousProblem,
    Problem,
    SeparableProblem,
)
from ..reference import gaussian_log_density, kl_gaussians
from .references import References

#: Headings of the tables.
TITLES = {
    "kl_fit_true": "KL(fit, true)",
    "kl_true_fit": "KL(true, fit)",
    "symkl": "symKL",
    "tv": "total variation",
    "overlap_symkl": "symKL on the overlap",
    "relative_l1": "relative L1 error",
    "worst_marginal": "worst marginal KL",
    "moment_symkl": "symKL of moments",
    "mean_error": "mean error",
    "covariance_error": "rel. covariance error",
    "entropy_error": "entropy error",
    "functional_1": "error of functional 1",
    "functional_2": "error of functional 2",
    "nll": "NLL of particles",
    "symkl_stationary": "symKL to stationary law",
    "floor": "floor: exact law, mode weights",
    "certificate": "certified KL",
    "certified_tv": "certified TV",
}


def measure(problem: Problem, law, t: float, references: References) -> dict[str, float]:
    """All errors of a law at time t that can be had.

    Parameters
    ----------
    problem : Problem
    law : Law
        See ``methods``.
    t : float
    references : References

    Returns
    -------
    dict
        Keys are those of ``TITLES``, and ``nll_se``, ``kl_fit_true_se``, ``kl_true_fit_se``,
        ``tv_se``: standard errors where a value is a mean over samples.
    """
    errors: dict[str, float] = {}
    if law.solution is not None and references.is_grid(problem):
        # finite volumes, where they are the reference: their own estimate of their error
        kl = law.solution.error**2 / 2
        return {"kl_fit_true": kl, "kl_true_fit": kl, "symkl": 2 * kl}
    if isinstance(problem, PorousProblem):
        return _on_the_overlap(problem, law, t)
    if isinstance(problem, GaussianProblem):
        errors |= _gaussian(problem, law, t)
    if "kl_fit_true" not in errors and references.has_truth(problem):
        errors |= _divergences(problem, law, t, references)
        errors["symkl"] = errors["kl_fit_true"] + errors["kl_true_fit"]
    if not problem.has_density:
        surprise = -law.log_density(references.particles(problem, t)[: law.n_points], t)
        errors["nll"], errors["nll_se"] = _mean(surprise)
    if isinstance(problem, ExpectationProblem) and t == problem.t_final:
        errors |= _expectations(problem, law, t)
    if isinstance(problem.potential, GaussianMixture):
        errors["symkl_stationary"] = _to_stationary(problem, law, t)
        errors["floor"] = references.mode_floor(problem, t)
    return errors


def _on_the_overlap(problem, law, t):
    """Against a law of compact support, which a smooth one has infinite KL to.

    KL both ways, of the points that lie in the support of the other law; the L1 distance, which for
    probability densities is relative to one of norm 1; and total variation, half of that.
    """
    x, y = problem.sample(law.n_points, t, seed=1), law.points(t)
    backward = problem.log_density(x, t) - law.log_density(x, t)
    forward = law.log_density(y, t) - problem.log_density(y, t)
    missed = _excess(backward)  # of the true mass, with what the fit has elsewhere the same again
    overlap = float(backward.mean() + forward[np.isfinite(forward)].sum() / len(forward))
    variation, error = _mean(missed)
    return {
        "overlap_symkl": overlap,
        "relative_l1": 2 * variation,
        "tv": variation,
        "tv_se": error,
    }


def _expectations(problem, law, t):
    """Absolute errors of the known expectations, over many points: they are to be seen to 1e-3."""
    many = copy(law)
    many.n_points = 2**18
    x = many.points(t)
    return {
        f"functional_{k}": float(abs(function(x).mean() - expected))
        for k, (function, expected) in enumerate(
            zip(problem.functions, problem.expected, strict=True), 1
        )
    }


def _mean(values: np.ndarray) -> tuple[float, float]:
    """Mean and its standard error."""
    return float(np.mean(values)), float(np.std(values) / math.sqrt(len(values)))


def _kl_from_samples(log_ratio: np.ndarray) -> tuple[float, float]:
    """KL(p, q) and its standard error from log(p / q) at samples of p.

    Where the laws are close, q / p - 1 (of mean zero) is added: then every term is positive and
    almost all of the noise cancels. Where they are not, its tails would be heavy.
    """
    if log_ratio.std() < 0.1:
        return _mean(log_ratio + np.expm1(-log_ratio))
    return _mean(log_ratio)


def _gaussian(problem, law, t):
    """Against an exact Gaussian law, by formula where the fit is one as well."""
    exact = problem.moments(t)
    moments = law.gaussian(t)
    errors = {}
    entropy_constant = 0.5 * problem.d * math.log(2 * math.pi * math.e)
    exact_entropy = entropy_constant + 0.5 * np.linalg.slogdet(exact[1])[1]
    if moments is not None:
        errors["kl_fit_true"] = kl_gaussians(*moments, *exact)
        errors["kl_true_fit"] = kl_gaussians(*exact, *moments)
        errors["symkl"] = errors["kl_fit_true"] + errors["kl_true_fit"]
        y = law.points(t)
        log_ratio = gaussian_log_density(y, *moments) - gaussian_log_density(y, *exact)
        errors["tv"], errors["tv_se"] = _mean(_excess(log_ratio))
        entropy = entropy_constant + 0.5 * np.linalg.slogdet(moments[1])[1]
    elif law.solution is not None:
        moments = law.solution.mean(t), law.solution.covariance(t)
        entropy = law.solution.expectation(lambda x: -law.log_density(x, t), t)
    else:
        x = law.points(t)
        moments = x.mean(0), np.atleast_2d(np.cov(x.T))
        entropy = -law.log_density(x, t).mean()
    there = np.linalg.norm(exact[1])
    return errors | {
        "moment_symkl": kl_gaussians(*moments, *exact) + kl_gaussians(*exact, *moments),
        "mean_error": float(np.linalg.norm(moments[0] - exact[0])),
        "covariance_error": float(np.linalg.norm(moments[1] - exact[1]) / there),
        "entropy_error": float(abs(entropy - exact_entropy)),
    }


def _divergences(problem, law, t, references):
    """KL both ways, and total variation, between a law and a known density."""
    if isinstance(problem, SeparableProblem) and law.marginals(t) is not None:
        return _separable(problem, *law.marginals(t), t)
    if problem.has_density and not isinstance(problem, PlanarProblem):
        log_true = problem.log_density
        x = problem.sample(law.n_points, t, seed=1)
        backward = _kl_from_samples(log_true(x, t) - law.log_density(x, t))
    else:
        grid = references.grid(problem)
        log_true = grid.log_density
        gap = grid.expectation(lambda x: log_true(x, t) - law.log_density(x, t), t)
        backward = gap, 0.0
    if law.solution is not None:
        gap = law.solution.expectation(lambda x: law.log_density(x, t) - log_true(x, t), t)
        forward = gap, 0.0
        excess = law.solution.expectation(
            lambda x: _excess(law.log_density(x, t) - log_true(x, t)), t
        )
        variation = excess, 0.0
    else:
        y = law.points(t)
        log_ratio = law.log_density(y, t) - log_true(y, t)
        forward, variation = _kl_from_samples(log_ratio), _mean(_excess(log_ratio))
    return {
        "kl_fit_true": forward[0],
        "kl_fit_true_se": forward[1],
        "kl_true_fit": backward[0],
        "kl_true_fit_se": backward[1],
        "tv": variation[0],
        "tv_se": variation[1],
    }


def _excess(log_ratio: np.ndarray) -> np.ndarray:
    """(1 - q / p)_+ from log(p / q): its mean under p is TV(p, q), and it lies in [0, 1]."""
    return -np.expm1(-np.maximum(log_ratio, 0.0))


def _separable(problem, y, log_fit, weights, t):
    """Sums over marginals, by quadrature under the fit, in forms that cannot cancel.

    With r = true / fit, KL(fit, true) = E_fit[r - 1 - log r] and
    KL(true, fit) = E_fit[r log r - r + 1].
    """
    exact = np.stack([problem.marginal(i).log_density(y[:, i], t) for i in range(problem.d)], 1)
    log_ratio = exact - log_fit
    excess = np.expm1(log_ratio)
    forward = weights @ (excess - log_ratio)
    backward = weights @ ((1 + excess) * log_ratio - excess)
    return {
        "kl_fit_true": float(forward.sum()),
        "worst_marginal": float(forward.max()),
        "kl_true_fit": float(backward.sum()),
    }


def _to_stationary(problem, law, t):
    """symKL to the normalised equilibrium, by Monte Carlo both ways."""
    y, x = law.points(t), problem.potential.sample(law.n_points, seed=1).numpy()
    forward = law.log_density(y, t) - problem.stationary_log_density(y)
    backward = problem.stationary_log_density(x) - law.log_density(x, t)
    return float(forward.mean() + backward.mean())
