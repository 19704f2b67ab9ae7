"""What the examples ``bayes_*.py`` share: a long ensemble run beside the fit, and a table.

Needs emcee or BlackJAX (``pip install emcee blackjax``), whichever the example names.
"""

import os
import time

import numpy as np
import torch

from skfokker.bayes import effective_draws, mcmc_start


def ensemble(posterior, n_steps=6000, n_walkers=None, seed=0):
    """A long run of emcee on the same log density, started from resampled draws.

    Returns unconstrained chains (walkers, steps, d) after a burn-in of a quarter, the seconds they
    took, and their effective number of draws (the smallest over the coordinates).
    """
    import emcee

    d = posterior.x.shape[1]
    n_walkers = n_walkers or max(64, 4 * d)
    start = mcmc_start(posterior, n_walkers)["positions"]

    def log_density(x):
        with torch.no_grad():
            value = -posterior.potential(torch.from_numpy(x)).numpy()
        return np.where(np.isfinite(value), value, -np.inf)

    moves = [(emcee.moves.DEMove(), 0.8), (emcee.moves.DESnookerMove(), 0.2)]
    sampler = emcee.EnsembleSampler(n_walkers, d, log_density, vectorize=True, moves=moves)
    sampler._random.seed(seed)
    before = time.perf_counter()
    sampler.run_mcmc(start, n_steps)
    seconds = time.perf_counter() - before
    chains = sampler.get_chain(discard=n_steps // 4).transpose(1, 0, 2)
    tau = sampler.get_autocorr_time(discard=n_steps // 4, quiet=True, tol=0).max()
    return chains, seconds, chains.shape[0] * chains.shape[1] / tau


def nuts(log_density, posterior, step_size, n_steps=3000, n_chains=4, seed=0):
    """Chains of BlackJAX's NUTS on the same log density written in JAX, of one point (d,).

    Starts and metric are those of the fit. Returns what :func:`ensemble` returns.
    """
    import blackjax
    import jax

    start = mcmc_start(posterior, n_chains)
    kernel = blackjax.nuts(log_density, step_size, inverse_mass_matrix=start["covariance"])

    @jax.jit
    def chain(key, position):
        def step(state, key):
            state, _ = kernel.step(key, state)
            return state, state.position

        return jax.lax.scan(step, kernel.init(position), jax.random.split(key, n_steps))[1]

    before = time.perf_counter()
    keys = jax.random.split(jax.random.key(seed), n_chains)
    pairs = zip(keys, start["positions"], strict=True)
    chains = np.stack([np.asarray(chain(key, x)) for key, x in pairs])[:, n_steps // 15 :]
    return chains, time.perf_counter() - before, float(effective_draws(chains).min())


def report(name, posterior, seconds, chains, chain_seconds, n_effective):
    """Print the fit beside the chains: bias in posterior sds, evidence, wall times."""
    exact = posterior.by_name(chains.reshape(-1, chains.shape[-1]))
    mean, sd = posterior.mean(), posterior.sd()
    by_mean = max(float(np.max(np.abs(mean[k] - v.mean(0)) / v.std(0))) for k, v in exact.items())
    by_sd = max(float(np.max(np.abs(sd[k] / v.std(0) - 1))) for k, v in exact.items())
    error = 1 / np.sqrt(n_effective)
    own = posterior.bridge()
    thinned = posterior.chains_of(chains[:40, :: max(1, chains.shape[1] // 400)])
    other = posterior.bridge(chains=thinned)
    print(f"\n=== {name}")
    print(posterior)
    print(posterior.independence_metropolis())
    print(
        f"largest bias of a mean {by_mean:.3f} sd, of an sd {by_sd:.3f} "
        f"(the chains' own error: {error:.3f} sd, {n_effective:.0f} effective draws)"
    )
    print(
        f"log evidence: importance {posterior.log_evidence}, bridge {own}, "
        f"bridge with the chains' draws {other}"
    )
    print(
        f"seconds: fit {seconds:.1f}, chains {chain_seconds:.1f} "
        f"(load of the machine {os.getloadavg()[0]:.1f})",
        flush=True,
    )
    assert effective_draws(thinned.log_ratios) > 0
    return by_mean, by_sd
