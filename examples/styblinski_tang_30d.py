"""
Thirty dimensions, two wells in each
====================================

The paper's Styblinski-Tang problem (section 6.2.1): V(x) = (3/50) sum_i (x_i^4 - 16 x_i^2 + 5 x_i)
in 30 dimensions, beta = 1, from N(0, I) to t = 1.8. The exact solution is a product, so every
marginal can be compared with a converged finite-volume solution in one dimension.
"""

import time
from pathlib import Path

import joblib
import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

from skfokker import ParametricFokkerPlanck, metrics, problems

# the tensors are small: one thread is as fast as two, and much faster beside other work
torch.set_num_threads(1)
problem = problems.load("styblinski-tang-30d")
times = [0.3, 0.6, 0.9, 1.2, 1.5, 1.8]

start = time.perf_counter()
fokker = ParametricFokkerPlanck(random_state=0, verbose=1).fit(problem.potential, t_final=1.8)
seconds = time.perf_counter() - start
print(
    f"\nfit: {seconds:.1f} s, {len(fokker.times_) - 1} steps, {fokker.thetas_.shape[1]} parameters"
)
print(fokker.certificate_)

print(f"\n{'t':>4} {'free energy':>12} {'worst marginal KL':>18} {'joint KL':>9} "
      f"{'mean error':>11} {'var. error':>11} {'certified KL':>13} {'samples/s':>10}")  # fmt: skip
energy_times = [record["t"] for record in fokker.history_]
energies = [record["free_energy"] for record in fokker.history_]
for t in times:
    kl = metrics.marginal_kl(fokker, problem, t)
    mean, covariance = metrics.moments(fokker, t)
    exact_mean, exact_variance = problem.marginal(0).mean(t), problem.marginal(0).variance(t)
    clock = time.perf_counter()
    fokker.sample(100_000, t=t, random_state=0)
    rate = 100_000 / (time.perf_counter() - clock)
    print(f"{t:4.1f} {np.interp(t, energy_times, energies):12.4f} {kl.max():18.1e} {kl.sum():9.1e} "
          f"{np.abs(mean - exact_mean).max():11.1e} "
          f"{np.abs(np.diag(covariance) - exact_variance).max():11.1e} "
          f"{fokker.certificate_.kl(t):13.1e} {rate:10.0f}")  # fmt: skip

# %%
# The fitted object is numpy arrays and specs: it goes to disk and comes back with the same bits.

output = Path("output")
output.mkdir(exist_ok=True)
joblib.dump(fokker, output / "styblinski_tang_30d.joblib", compress=3)
loaded = joblib.load(output / "styblinski_tang_30d.joblib")
before, after = (model.sample(5, t=1.8, random_state=1) for model in (fokker, loaded))
same = "the same" if np.array_equal(before, after) else "OTHER"
size = (output / "styblinski_tang_30d.joblib").stat().st_size / 1e6
print(f"\nsaved and loaded ({size:.2f} MB): samples have {same} bits")

# %%
# Left: the marginal density, fit over reference. Right: the law in a plane of two coordinates.

figure, axes = plt.subplot_mosaic([["marginal"] * 3, list("abc")], figsize=(9, 6.5), layout="tight")
x = np.linspace(-4.5, 4.5, 400)
colours = plt.cm.viridis(np.linspace(0, 0.85, len(times)))
axis = axes["marginal"]
for t, colour in zip(times, colours, strict=True):
    y, log_density, _ = metrics.marginals(fokker, t)
    axis.plot(x, problem.marginal(0).density(x, t), color=colour, lw=4, alpha=0.35)
    axis.plot(y[:, 0], np.exp(log_density[:, 0]), color=colour, lw=1.2, label=f"t = {t:g}")
axis.plot([], [], color="grey", lw=4, alpha=0.4, label="finite volumes")
axis.set(xlim=(-4.5, 4.5), xlabel="$x_1$", ylabel=r"marginal density $\rho_1(t, x_1)$")
axis.legend(ncols=2, frameon=False, fontsize=8)
for name, t in zip("abc", [0.0, 0.6, 1.8], strict=True):
    points = fokker.sample(4000, t=t, random_state=0)
    axes[name].plot(points[:, 0], points[:, 1], ".", ms=1.5, alpha=0.4, color="#30638e")
    axes[name].set(xlim=(-4.5, 4.5), ylim=(-4.5, 4.5), xlabel="$x_1$", title=f"t = {t:g}")
    axes[name].set_aspect("equal")
axes["a"].set_ylabel("$x_2$")
figure.savefig(output / "styblinski_tang_30d.png", dpi=130)
print(f"picture: {output / 'styblinski_tang_30d.png'}")
