"""
Eight schools, non-centred and centred
======================================

The centred form is a funnel: as the scale of the hierarchy goes to zero its log density has no
upper bound, so there is no mode to start from. Both forms have the same evidence. Compared with
NUTS (BlackJAX) on the non-centred form: 10000 steps of emcee are 0.05 sd away from it.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import torch
from bayes_comparison import nuts, report
from torch.distributions import HalfCauchy, Normal, constraints

from skfokker.bayes import sample_posterior

y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]).double()
error = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]).double()


def prior(p):
    return Normal(0.0, 5.0).log_prob(p["mu"]) + HalfCauchy(5.0).log_prob(p["tau"])


def non_centred(p):
    effect = p["mu"][:, None] + p["tau"][:, None] * p["z"]
    return (
        prior(p)
        + Normal(0.0, 1.0).log_prob(p["z"]).sum(1)
        + Normal(effect, error).log_prob(y).sum(1)
    )


def centred(p):
    effect = Normal(p["mu"][:, None], p["tau"][:, None])
    return prior(p) + effect.log_prob(p["z"]).sum(1) + Normal(p["z"], error).log_prob(y).sum(1)


named = {"mu": constraints.real, "tau": constraints.positive, "z": (constraints.real, (8,))}
before = time.perf_counter()
posterior = sample_posterior(non_centred, constraints=named, random_state=0, n_draws=20000)
seconds = time.perf_counter() - before
posterior.forward_check()

jax.config.update("jax_enable_x64", True)
y_, error_ = jnp.asarray(y.numpy()), jnp.asarray(error.numpy())


def log_density(u):
    mu, log_tau, z = u[0], u[1], u[2:]
    tau = jnp.exp(log_tau)
    prior = -0.5 * (mu / 5) ** 2 - jnp.log1p((tau / 5) ** 2) + log_tau - 0.5 * (z**2).sum()
    return prior - 0.5 * (((y_ - mu - tau * z) / error_) ** 2).sum()


chains, chain_seconds, n_effective = nuts(log_density, posterior, 0.3, 30000)
report("eight schools, non-centred", posterior, seconds, chains, chain_seconds, n_effective)

# %%
# The centred form, against the same chains: z there is mu + tau z here.

before = time.perf_counter()
other = sample_posterior(centred, constraints=named, random_state=0, n_draws=20000)
seconds = time.perf_counter() - before
other.forward_check()
moved = chains.copy()
moved[..., 2:] = moved[..., :1] + np.exp(moved[..., 1:2]) * moved[..., 2:]
report("eight schools, centred", other, seconds, moved, chain_seconds, n_effective)
