"""
Poisson regression with a Gaussian-process intensity: coal-mining disasters
===========================================================================

Disasters a year in British coal mines, 1851 to 1961, in bins of seven years. The log intensity is a
Gaussian process with unknown mean, amplitude and length scale: 19 parameters.

Its values are mean + L v, L L^T the covariance and v standard normal a priori. A posteriori, v is
the narrower the longer the length scale is. A fit in (mean, amplitude, length, v) therefore misses
the tail of long length scales (``--prior-whitened`` shows it). The parameters here are instead z,
v = v_0 + C^-T z with C C^T = I + L^T W L and C C^T v_0 = L^T W (y - mean): the whitened residual
from the regression on y = log of the counts a year, whose information is W = counts
(O. F. Christensen, G. O. Roberts, M. Skoeld, "Robust Markov chain Monte Carlo methods for spatial
generalized linear mixed models", 2006). Whatever the length scale, z is then close to N(0, I).
"""

import sys
import time

import jax
import jax.numpy as jnp
import torch
from bayes_comparison import nuts, report
from jax.scipy.linalg import cho_solve, solve_triangular
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
information = counts * ("--prior-whitened" not in sys.argv)  # 0: z = v
observed = (counts / years).log()
eye = torch.eye(n_bins).double()


def values(p):
    """Whitened values v (n, n_bins), log intensity (n, n_bins), log of the Jacobian (n,)."""
    kernel = torch.exp(-0.5 * gap / p["length"][:, None, None].square()) + 1e-4 * eye
    root = p["amplitude"][:, None, None] * torch.linalg.cholesky(kernel)
    weighted = root.mT * information
    C = torch.linalg.cholesky(eye + weighted @ root)
    towards = weighted @ (observed - p["mean"][:, None])[:, :, None]
    v = torch.cholesky_solve(towards, C)
    v = v + torch.linalg.solve_triangular(C.mT, p["z"][:, :, None], upper=True)
    log_jacobian = -C.diagonal(dim1=1, dim2=2).log().sum(1)
    return v[:, :, 0], p["mean"][:, None] + (root @ v)[:, :, 0], log_jacobian


def log_posterior(p):
    v, log_intensity, log_jacobian = values(p)
    prior = (
        Normal(0.0, 1.0).log_prob(v).sum(1)
        + log_jacobian
        + Normal(0.5, 1.0).log_prob(p["mean"])
        + HalfNormal(1.0).log_prob(p["amplitude"])
        + LogNormal(1.0, 0.5).log_prob(p["length"])
    )
    return prior + Poisson(years * log_intensity.exp()).log_prob(counts).sum(1)


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
gap_, counts_, years_, information_, observed_, eye_ = (
    jnp.asarray(a.numpy()) for a in (gap, counts, years, information, observed, eye)
)


def log_density(u):
    mean, log_amplitude, log_length, z = u[0], u[1], u[2], u[3:]
    kernel = jnp.exp(-0.5 * gap_ / jnp.exp(2 * log_length)) + 1e-4 * eye_
    root = jnp.exp(log_amplitude) * jnp.linalg.cholesky(kernel)
    C = jnp.linalg.cholesky(eye_ + (root.T * information_) @ root)
    v = cho_solve((C, True), root.T @ (information_ * (observed_ - mean)))
    v = v + solve_triangular(C, z, lower=True, trans="T")
    log_intensity = mean + root @ v
    prior = -0.5 * (v**2).sum() - jnp.log(jnp.diag(C)).sum() - 0.5 * (mean - 0.5) ** 2
    # half-normal and log-normal, with the Jacobians of the logarithms
    prior = prior - 0.5 * jnp.exp(2 * log_amplitude) + log_amplitude
    prior = prior - 0.5 * ((log_length - 1.0) / 0.5) ** 2
    return prior + (counts_ * log_intensity - years_ * jnp.exp(log_intensity)).sum()


report("Poisson process", posterior, seconds, *nuts(log_density, posterior, 0.4, 12000))


def intensity(draws):
    return values({k: torch.from_numpy(v) for k, v in draws.items()})[1].exp().numpy()


mean, error = posterior.expectation(intensity)
print("disasters a year:", " ".join(f"{m:.2f}" for m in mean))
