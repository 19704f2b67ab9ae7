"""
Poisson regression with a Gaussian-process intensity: coal-mining disasters
===========================================================================

Disasters a year in British coal mines, 1851 to 1961, in bins of seven years. The log intensity is a
Gaussian process with unknown mean, amplitude and length scale, its values written as L z with z
standard normal: 19 parameters.
"""

import time

import jax
import jax.numpy as jnp
import torch
from bayes_comparison import nuts, report
from torch.distributions import HalfNormal, LogNormal, Normal, Poisson, constraints

from skfokker.bayes import sample_posterior

yearly = [int(c) for c in (
    "454014340633402633545314415534252234213221111300101100310322011101010002100011023311"
    "211112420014000100000100101"
)]  # fmt: skip
assert len(yearly) == 111
n_bins = 16
bins = [yearly[7 * i : 7 * (i + 1)] for i in range(n_bins)]
counts = torch.tensor([float(sum(b)) for b in bins]).double()
years = torch.tensor([float(len(b)) for b in bins]).double()
where = torch.arange(n_bins).double()  # in bins
gap = (where[:, None] - where).square()


def log_intensity(p):
    kernel = torch.exp(-0.5 * gap / p["length"][:, None, None].square())
    root = torch.linalg.cholesky(kernel + 1e-4 * torch.eye(n_bins).double())
    values = (root @ p["z"][:, :, None])[:, :, 0]
    return p["mean"][:, None] + p["amplitude"][:, None] * values


def log_posterior(p):
    prior = (
        Normal(0.0, 1.0).log_prob(p["z"]).sum(1)
        + Normal(0.5, 1.0).log_prob(p["mean"])
        + HalfNormal(1.0).log_prob(p["amplitude"])
        + LogNormal(1.0, 0.5).log_prob(p["length"])
    )
    return prior + Poisson(years * log_intensity(p).exp()).log_prob(counts).sum(1)


named = {
    "mean": constraints.real,
    "amplitude": constraints.positive,
    "length": constraints.positive,
    "z": (constraints.real, (n_bins,)),
}
before = time.perf_counter()
posterior = sample_posterior(
    log_posterior, constraints=named, random_state=0, n_draws=40000, tolerance=2e-3
)
seconds = time.perf_counter() - before
posterior.forward_check()

# %%
# The same in JAX, in the unconstrained coordinates, for NUTS.

jax.config.update("jax_enable_x64", True)
gap_, counts_, years_ = (jnp.asarray(a.numpy()) for a in (gap, counts, years))


def log_density(u):
    mean, log_amplitude, log_length, z = u[0], u[1], u[2], u[3:]
    kernel = jnp.exp(-0.5 * gap_ / jnp.exp(2 * log_length)) + 1e-4 * jnp.eye(n_bins)
    values = mean + jnp.exp(log_amplitude) * (jnp.linalg.cholesky(kernel) @ z)
    prior = -0.5 * (z**2).sum() - 0.5 * (mean - 0.5) ** 2
    # half-normal and log-normal, with the Jacobians of the logarithms
    prior = prior - 0.5 * jnp.exp(2 * log_amplitude) + log_amplitude
    prior = prior - 0.5 * ((log_length - 1.0) / 0.5) ** 2
    return prior + (counts_ * values - years_ * jnp.exp(values)).sum()


report("Poisson process", posterior, seconds, *nuts(log_density, posterior, 0.2, 12000))

mean, error = posterior.expectation(
    lambda draws: log_intensity({k: torch.from_numpy(v) for k, v in draws.items()}).exp().numpy()
)
print("disasters a year:", " ".join(f"{m:.2f}" for m in mean))
