"""Posteriors as users have them, their data typed in or drawn from a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import HalfCauchy, InverseGamma, LogNormal, Normal, StudentT, constraints
from torch.nn.functional import logsigmoid

positive, unit = constraints.positive, constraints.unit_interval


@dataclass(frozen=True)
class Case:
    """A log density of named, constrained parameters.

    Attributes
    ----------
    name : str
    log_density : callable
        Maps a dict of tensors (n, *shape) to (n,).
    constraints : mapping
        As for :class:`skfokker.bayes.Blocks`.
    """

    name: str
    log_density: Callable[[dict[str, Tensor]], Tensor]
    constraints: Mapping[str, Any]


def _tensor(values) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=float))


def badly_scaled_regression() -> Case:
    """Flat priors, predictors whose scales differ by a factor of 10^7."""
    rng = np.random.default_rng(1)
    x = np.column_stack([np.ones(60), 1e4 * rng.normal(2, 1, 60), 1e-3 * rng.normal(size=60)])
    y = _tensor(x @ [5.0, 3e-4, 700.0] + rng.normal(size=60))
    design = _tensor(x)

    def log_density(p):
        return Normal(p["slopes"] @ design.T, p["sd"][:, None]).log_prob(y).sum(1) - p["sd"].log()

    return Case("regression, flat priors", log_density, {"slopes": 3, "sd": positive})


def autoregression() -> Case:
    """AR(2) about an unknown mean."""
    rng = np.random.default_rng(2)
    series = [10.0, 10.0]
    for _ in range(150):
        series.append(10 + 0.6 * (series[-1] - 10) + 0.2 * (series[-2] - 10) + rng.normal())
    y = _tensor(series)

    def log_density(p):
        gap = y - p["mean"][:, None]
        ahead = p["lags"][:, :1] * gap[:, 1:-1] + p["lags"][:, 1:] * gap[:, :-2]
        likelihood = Normal(ahead, p["sd"][:, None]).log_prob(gap[:, 2:]).sum(1)
        prior = Normal(0.0, 20.0).log_prob(p["mean"]) + Normal(0.0, 0.5).log_prob(p["lags"]).sum(1)
        return likelihood + prior + HalfCauchy(2.5).log_prob(p["sd"])

    return Case("AR(2)", log_density, {"mean": (), "lags": 2, "sd": positive})


def garch() -> Case:
    """GARCH(1, 1) with flat priors where it is stationary."""
    rng = np.random.default_rng(3)
    variance, series = 0.3, []
    for _ in range(200):
        series.append(0.1 + np.sqrt(variance) * rng.normal())
        variance = 0.05 + 0.3 * (series[-1] - 0.1) ** 2 + 0.5 * variance
    y = _tensor(series)

    def log_density(p):
        square = (y - p["mean"][:, None]).square()
        share = p["shock"]
        memory = p["memory"] * (1 - share)  # both together below one
        now = torch.full_like(p["mean"], 0.25)
        variances = []
        for k in range(len(y)):
            variances.append(now)
            now = p["base"] + share * square[:, k] + memory * now
        s = torch.stack(variances, 1)
        prior = Normal(0.0, 10.0).log_prob(p["mean"]) - p["base"] + torch.log1p(-share)
        return prior - 0.5 * (square / s + s.log()).sum(1)

    limits = {"mean": (), "base": positive, "shock": unit, "memory": unit}
    return Case("GARCH(1,1)", log_density, limits)


def gaussian_process() -> Case:
    """Regression by a Gaussian process: length scale, size and noise."""
    rng = np.random.default_rng(4)
    x = np.sort(rng.uniform(-3, 3, 30))
    y = _tensor(np.sin(2 * x) + 0.3 * rng.normal(size=30))
    square = _tensor((x[:, None] - x) ** 2)
    identity = torch.eye(30, dtype=torch.float64)

    def log_density(p):
        length, size, noise = (p[k][:, None, None] for k in ("length", "size", "noise"))
        kernel = size.square() * torch.exp(-0.5 * square / length.square())
        root = torch.linalg.cholesky(kernel + (noise.square() + 1e-8) * identity)
        white = torch.linalg.solve_triangular(
            root, y[:, None].expand(len(root), -1, 1), upper=False
        )
        likelihood = -0.5 * white.square().sum((1, 2)) - root.diagonal(dim1=1, dim2=2).log().sum(1)
        prior = InverseGamma(_tensor(5.0), _tensor(5.0)).log_prob(p["length"])
        return likelihood + prior - 0.5 * (p["size"].square() + p["noise"].square())

    limits = {"length": positive, "size": positive, "noise": positive}
    return Case("Gaussian process", log_density, limits)


def ordered_mixture() -> Case:
    """Two normal components in order, their share unknown."""
    rng = np.random.default_rng(5)
    first = rng.uniform(size=200) < 0.4
    y = _tensor(np.where(first, rng.normal(-1, 0.8, 200), rng.normal(1.5, 1.2, 200)))

    def log_density(p):
        means = torch.stack([p["low"], p["low"] + p["gap"]], 1)[:, :, None]
        sds = p["sds"][:, :, None]
        shares = torch.stack([p["share"], 1 - p["share"]], 1).log()[:, :, None]
        likelihood = torch.logsumexp(shares + Normal(means, sds).log_prob(y), 1).sum(1)
        prior = Normal(0.0, 2.0).log_prob(means).sum((1, 2)) - 0.5 * (p["sds"] / 2).square().sum(1)
        return likelihood + prior + 4 * (p["share"].log() + torch.log1p(-p["share"]))

    limits = {"low": (), "gap": positive, "sds": (positive, 2), "share": unit}
    return Case("ordered mixture", log_density, limits)


def hidden_markov() -> Case:
    """Two hidden states, normal emissions of unit variance; the states are summed over."""
    rng = np.random.default_rng(6)
    state, series = 0, []
    for _ in range(100):
        state = state if rng.uniform() < (0.8, 0.7)[state] else 1 - state
        series.append((3.0, 9.0)[state] + 1.5 * rng.normal())
    y = _tensor(series)

    def log_density(p):
        stay = p["stay"]
        rows = torch.stack([stay[:, 0], 1 - stay[:, 0], 1 - stay[:, 1], stay[:, 1]], 1)
        log_rows = rows.log().view(-1, 2, 2)
        means = torch.stack([p["low"], p["low"] + p["gap"]], 1)
        emitted = Normal(means[:, None], p["sd"][:, None, None]).log_prob(y[:, None])
        forward = emitted[:, 0] - np.log(2)
        for k in range(1, len(y)):
            forward = torch.logsumexp(forward[:, :, None] + log_rows, 1) + emitted[:, k]
        prior = Normal(3.0, 2.0).log_prob(p["low"]) + Normal(6.0, 2.0).log_prob(p["gap"])
        prior = prior + 3 * stay.log().sum(1) + torch.log1p(-stay).sum(1) - p["sd"]
        return torch.logsumexp(forward, 1) + prior

    limits = {"stay": (unit, 2), "low": (), "gap": positive, "sd": positive}
    return Case("hidden Markov", log_density, limits)


_EFFECTS = _tensor([28, 8, -3, 7, -1, 1, 18, 12])  # D. B. Rubin (1981)
_ERRORS = _tensor([15, 10, 16, 11, 9, 11, 10, 18])


def eight_schools(centred: bool) -> Case:
    """The eight schools, in one of two parametrisations."""

    def log_density(p):
        mean, sd = p["mean"][:, None], p["sd"][:, None]
        prior = Normal(0.0, 5.0).log_prob(p["mean"]) + HalfCauchy(5.0).log_prob(p["sd"])
        if centred:
            effects, effects_prior = p["effects"], Normal(mean, sd).log_prob(p["effects"])
        else:
            effects = mean + sd * p["effects"]
            effects_prior = Normal(0.0, 1.0).log_prob(p["effects"])
        likelihood = Normal(effects, _ERRORS).log_prob(_EFFECTS)
        return prior + effects_prior.sum(1) + likelihood.sum(1)

    name = "eight schools, centred" if centred else "eight schools, non-centred"
    return Case(name, log_density, {"mean": (), "sd": positive, "effects": 8})


def robust_prior_logistic() -> Case:
    """Logistic regression on 50 predictors whose slopes have a Student-t prior."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(200, 50))
    slopes = np.zeros(50)
    slopes[:5] = 2.0, -1.5, 1.0, -1.0, 0.5
    y = rng.uniform(size=200) < 1 / (1 + np.exp(-x @ slopes))
    signed = _tensor(x * (2 * y - 1)[:, None])
    prior = StudentT(_tensor(4.0), _tensor(0.0), _tensor(0.5))

    def log_density(p):
        return logsigmoid(p["slopes"] @ signed.T).sum(1) + prior.log_prob(p["slopes"]).sum(1)

    return Case("logistic, Student-t prior", log_density, {"slopes": 50})


def breast_cancer() -> Case:
    """Logistic regression on the 30 predictors of the breast cancer data."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.preprocessing import StandardScaler

    x, y = load_breast_cancer(return_X_y=True)
    design, sign = _tensor(StandardScaler().fit_transform(x)), _tensor(2 * y - 1)

    def log_density(p):
        prior = Normal(0.0, 5.0).log_prob(p["intercept"])
        prior = prior + Normal(0.0, 1.0).log_prob(p["slopes"]).sum(1)
        return prior + logsigmoid(sign * (p["intercept"][:, None] + p["slopes"] @ design.T)).sum(1)

    return Case("logistic, breast cancer", log_density, {"intercept": (), "slopes": 30})


def diabetes() -> Case:
    """Linear regression with unknown scales of slopes and noise."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    design, target = _tensor(x / x.std(0)), _tensor((y - y.mean()) / y.std())

    def log_density(p):
        mean = p["intercept"][:, None] + p["slopes"] @ design.T
        prior = Normal(0.0, 1.0).log_prob(p["intercept"])
        prior = prior + Normal(0.0, p["width"][:, None]).log_prob(p["slopes"]).sum(1)
        prior = prior + HalfCauchy(1.0).log_prob(p["width"])
        prior = prior + LogNormal(_tensor(0.0), _tensor(1.0)).log_prob(p["sd"])
        return prior + Normal(mean, p["sd"][:, None]).log_prob(target).sum(1)

    limits = {"intercept": (), "slopes": 10, "width": positive, "sd": positive}
    return Case("linear, unknown scales", log_density, limits)


def cases() -> list[Case]:
    """All of them."""
    return [
        badly_scaled_regression(),
        autoregression(),
        garch(),
        gaussian_process(),
        ordered_mixture(),
        hidden_markov(),
        eight_schools(centred=False),
        eight_schools(centred=True),
        diabetes(),
        breast_cancer(),
        robust_prior_logistic(),
    ]
