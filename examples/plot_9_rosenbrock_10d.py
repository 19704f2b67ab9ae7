r"""
Rosenbrock's valley in ten dimensions
=====================================

Section 6.2.2: V(x) = (3/50) sum_k 10 (x_{k+1} - x_k^2)^2 + (x_k - 1)^2 couples every coordinate to
its neighbours by cubic forces, and no density of its law is known in closed form. The fit is
compared with particles of the stochastic differential equation; the certificate needs no reference.

Most happens before t = 0.1, when cubic forces of size 30 drive the mass into the valley; what is
left of the march, to t = 1, spreads it along the valley. (The sign of the drift in the paper's
formula (113) for these particles is wrong: it has to be -grad V.)
"""

import time
import warnings
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
from sklearn.exceptions import ConvergenceWarning

from skfokker import ParametricFokkerPlanck, problems
from skfokker.plotting import (
    CertificateDisplay,
    FreeEnergyDisplay,
    HistoryDisplay,
    PairDensityDisplay,
    SampleProjectionDisplay,
)

warnings.simplefilter("ignore", ConvergenceWarning)
start = time.perf_counter()
problem = problems.load("rosenbrock-10d")
fit = ParametricFokkerPlanck(random_state=0).fit(problem.potential, t_final=1.0)
print(f"fit: {time.perf_counter() - start:.0f} s, {len(fit.times_) - 1} steps, "
      f"{fit.thetas_.shape[1]} parameters")  # fmt: skip
print(fit.certificate_)

# %%
# Samples of the fit over particles, in two planes.

times = [0.02, 0.1, 0.5, 1.0]
particles = problem.particles(20_000, times)
SampleProjectionDisplay.from_estimator(
    fit, times, coordinates=(0, 1), reference=particles, reference_name="particles"
)
SampleProjectionDisplay.from_estimator(
    fit, times, coordinates=(8, 9), reference=particles, reference_name="particles"
)

# %%
# Pairs of neighbouring coordinates at t = 1; the dashed contours are of the particles.

simulated = SimpleNamespace(sample=lambda n, t: particles[times.index(t)])  # not once a panel
PairDensityDisplay.from_estimator(
    fit, 1.0, coordinates=[0, 1, 8, 9], reference=simulated, reference_name="particles"
)

# %%
# Free energy, and the certified error.

figure, axes = plt.subplots(1, 2, figsize=(9.8, 3.6), layout="constrained")
FreeEnergyDisplay.from_estimator(fit, ax=axes[0])
CertificateDisplay.from_estimator(fit, ax=axes[1])

# %%
# The march.

HistoryDisplay.from_estimator(fit)

# %%
# Errors: moments against the particles' (whose own error is about 0.01), and the mean of -log rho
# at the particles, which is the smaller the better.

for t, x in zip(times, particles, strict=True):
    y = fit.sample(20_000, t=t, random_state=1)
    gap = np.abs(y.mean(0) - x.mean(0)).max(), np.abs(np.cov(y.T) - np.cov(x.T)).max()
    print(f"t = {t}: mean off by {gap[0]:.3f}, covariance by {gap[1]:.3f}")
    print(f"   -log rho {-fit.log_density(x, t).mean():.3f}, KL <= {fit.certificate_.kl(t):.3f}")
print(f"\nwall time: {time.perf_counter() - start:.1f} s")
