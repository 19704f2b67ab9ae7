"""
A PyMC model: eight schools, and NUTS of PyMC from the draws
==========================================================

A ``pymc.Model`` is handed over as it is: names, shapes and transforms are the model's own. The
weighted draws then give NUTS its starts and its metric, so that it needs no warm-up for them.
Needs PyMC (``pip install pymc``).
"""

import os
import time
import warnings

import numpy as np
import pymc as pm

from skfokker.bayes import mcmc_start, sample_posterior

y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
error = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])

with pm.Model() as model:
    mu = pm.Normal("mu", 0.0, 5.0)
    tau = pm.HalfCauchy("tau", 5.0)
    z = pm.Normal("z", 0.0, 1.0, shape=8)
    effect = pm.Deterministic("effect", mu + tau * z)
    pm.Normal("y", effect, error, observed=y)

before = time.perf_counter()
posterior = sample_posterior(model, random_state=0, n_draws=4000)
seconds = time.perf_counter() - before
print(posterior)

# %%
# Four chains of NUTS from resampled draws, in the metric of their covariance.

start = mcmc_start(posterior, 4)
free = [variable.name for variable in model.free_RVs]
initial = [{name: start["values"][name][i] for name in free} for i in range(4)]
with model, warnings.catch_warnings():
    warnings.simplefilter("ignore")
    potential = pm.step_methods.hmc.quadpotential.QuadPotentialFull(start["covariance"])
    step = pm.NUTS(potential=potential, target_accept=0.95, model=model)
    before = time.perf_counter()
    chains = pm.sample(
        4000, tune=300, chains=4, cores=1, step=step, initvals=initial, random_seed=0,
        progressbar=False, compute_convergence_checks=False,
    )  # fmt: skip
    chain_seconds = time.perf_counter() - before

mean, sd = posterior.mean(), posterior.sd()
for name in (*free, "effect"):
    exact = chains.posterior[name].values.reshape(16000, *mean[name].shape)
    bias = np.abs(mean[name] - exact.mean(0)) / exact.std(0)
    print(
        f"{name:6} largest bias of a mean {bias.max():.3f} sd, "
        f"of an sd {np.abs(sd[name] / exact.std(0) - 1).max():.3f}"
    )
print(
    f"seconds: fit {seconds:.1f}, NUTS {chain_seconds:.1f} "
    f"(load of the machine {os.getloadavg()[0]:.1f})"
)
