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


def worst(posterior, chains, n_batches=40):
    """The largest bias of a weighted mean and of a weighted sd, and what chance alone makes of it.

    Returns
    -------
    two tuples (bias, name, error of the chains, error of the weights, largest of these pairs)
        In sds of the chains; the mean first. Errors are standard errors of the coordinate named:
        by batch means over time, all chains together (their moves may depend on each other), and
        by the spread of the weighted draws. The last entry is the root sum of squares of the pair
        where it is largest.
    """
    rows = [], []
    exact, weights = posterior.by_name(chains), posterior.weights
    for name, draws in posterior.draws.items():
        value = exact[name].reshape(*chains.shape[:2], -1)
        draws = draws.reshape(len(weights), -1)
        for j in range(draws.shape[1]):
            centre, scale = value[..., j].mean(), value[..., j].std()
            z, u = (value[..., j] - centre) / scale, (draws[:, j] - centre) / scale
            mean = weights @ u
            sd = np.sqrt(weights @ (u - mean) ** 2)
            label = name if draws.shape[1] == 1 else f"{name}[{j}]"
            # the sd is to first order the mean of half the squared deviation
            parts = [(mean, z, u - mean), (sd - 1, z**2 / 2, ((u - mean) ** 2 - sd**2) / (2 * sd))]
            for table, (bias, h, g) in zip(rows, parts, strict=True):
                batches = [b.mean() for b in np.array_split(h, n_batches, axis=1)]
                chance = np.std(batches, ddof=1) / np.sqrt(n_batches)
                table.append((abs(bias), label, chance, np.sqrt(weights**2 @ g**2)))
    return [max(t) + (max(np.hypot(r[2], r[3]) for r in t),) for t in rows]


def report(name, posterior, seconds, chains, chain_seconds, n_effective):
    """Print the fit beside the chains: bias in posterior sds, evidence, wall times."""
    biases = worst(posterior, chains)
    own = posterior.bridge()
    thinned = posterior.chains_of(chains[:40, :: max(1, chains.shape[1] // 400)])
    other = posterior.bridge(chains=thinned)
    print(f"\n=== {name}")
    print(posterior)
    print(posterior.independence_metropolis())
    for what, (bias, where, chains_error, own_error, largest) in zip(
        ("a mean", "an sd"), biases, strict=True
    ):
        print(
            f"largest bias of {what}: {bias:.3f} sd, of {where} (standard errors there: chains "
            f"{chains_error:.3f}, weighted draws {own_error:.3f}; largest of both anywhere "
            f"{largest:.3f})"
        )
    print(
        f"log evidence: importance {posterior.log_evidence}, bridge {own}, "
        f"bridge with the chains' draws {other}"
    )
    print(
        f"seconds: fit {seconds:.1f}, chains {chain_seconds:.1f} for {n_effective:.0f} effective "
        f"draws (load of the machine {os.getloadavg()[0]:.1f})",
        flush=True,
    )
    return biases[0][0], biases[1][0]
