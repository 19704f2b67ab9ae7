"""
Linear regression with unknown scale: diabetes
==============================================

Responses in their own units (intercept about 152, coefficients up to 800, noise about 54): a start
at N(0, I) would be hundreds of standard deviations away. Coefficients share an unknown scale.
"""

import time

import torch
from bayes_comparison import ensemble, report
from sklearn.datasets import load_diabetes
from torch.distributions import HalfNormal, Normal, constraints

from skfokker.bayes import loo, sample_posterior

X, y = (torch.from_numpy(a) for a in load_diabetes(return_X_y=True))


def log_likelihood(p):
    centre = p["intercept"][:, None] + p["slopes"] @ X.T
    return Normal(centre, p["noise"][:, None]).log_prob(y)


def log_posterior(p):
    prior = (
        Normal(150.0, 100.0).log_prob(p["intercept"])
        + Normal(0.0, p["spread"][:, None]).log_prob(p["slopes"]).sum(1)
        + HalfNormal(500.0).log_prob(p["spread"])
        + HalfNormal(100.0).log_prob(p["noise"])
    )
    return prior + log_likelihood(p).sum(1)


named = {
    "intercept": constraints.real,
    "slopes": (constraints.real, (10,)),
    "spread": constraints.positive,
    "noise": constraints.positive,
}
before = time.perf_counter()
posterior = sample_posterior(log_posterior, constraints=named, random_state=0, n_draws=20000)
seconds = time.perf_counter() - before
posterior.forward_check()
report("linear regression, unknown scale", posterior, seconds, *ensemble(posterior, 8000, 80))

values = {name: torch.from_numpy(value) for name, value in posterior.draws.items()}
left_out = loo(log_likelihood(values).numpy(), posterior)
print(f"leave-one-out: elpd {left_out['elpd']:.1f} +- {left_out['error']:.1f}, "
      f"largest k {left_out['k'].max():.2f}")  # fmt: skip
