r"""
Two wells in each of thirty dimensions
======================================

Section 6.2.1: the Styblinski-Tang potential V(x) = (3/50) sum_i (x_i^4 - 16 x_i^2 + 5 x_i) in
thirty dimensions, beta = 1, from N(0, I). Every coordinate is pulled apart into two wells, of which
the left one is deeper: 2^30 modes in all.

The exact solution is a product over coordinates. `fit` sees that from finite differences of grad
V and takes one monotone spline a coordinate; the reference is a converged finite-volume solution in
one dimension. ``make demo`` runs a shorter version of this page.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
import torch

from skfokker import ParametricFokkerPlanck, metrics, problems
from skfokker.plotting import (
    CertificateDisplay,
    FreeEnergyDisplay,
    MarginalDensityDisplay,
    PathsDisplay,
    PlaneDensityDisplay,
    SampleProjectionDisplay,
    animate,
    overview,
)

start = time.perf_counter()
problem = problems.load("styblinski-tang-30d")
fit = ParametricFokkerPlanck(random_state=0).fit(problem.potential, t_final=1.8)
print(f"fit: {time.perf_counter() - start:.1f} s, {len(fit.times_) - 1} steps")
print(fit.certificate_)

# %%
# One picture of the fit.

overview(fit)

# %%
# Marginals, with the finite-volume solution under them.

MarginalDensityDisplay.from_estimator(
    fit, [0.3, 0.6, 0.9, 1.2, 1.5, 1.8], coordinates=[0, 17], reference=problem,
    reference_name="finite volumes",
)  # fmt: skip

# %%
# The law of two coordinates, and samples on that plane.

PlaneDensityDisplay.from_estimator(fit, [0.0, 0.3, 0.6, 1.8], coordinates=(4, 9))
SampleProjectionDisplay.from_estimator(fit, [0.0, 0.3, 0.6, 1.8], coordinates=(4, 9))

# %%
# Paths of the deterministic flow and its velocity, averaged over the other coordinates; and one
# coordinate against time.

figure, axes = plt.subplots(1, 2, figsize=(9.8, 4), layout="constrained")
PathsDisplay.from_estimator(fit, coordinates=(0, 1), field_time=0.3, n_paths=30, ax=axes[0])
PathsDisplay.from_estimator(fit, coordinates=0, n_paths=40, ax=axes[1])

# %%
# The potential of the velocity, phi = -(V + beta log rho) up to a constant: what the dual of
# Algorithm 1 approximates. Shown where the law has its mass, in the plane of two coordinates
# with the others at zero; v = grad phi points from blue to yellow, away from the middle and mostly
# along the diagonals, towards the wells. At equilibrium phi is constant.

side = np.linspace(-4, 4, 121)
points = np.zeros((121**2, 30))
points[:, :2] = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
figure, axes = plt.subplots(1, 3, figsize=(11.5, 3.5), layout="constrained", sharey=True)
for axis, t in zip(axes, (0.0, 0.3, 0.9), strict=True):
    log_density = fit.log_density(points, t)
    phi = -(problem.potential(torch.as_tensor(points)).numpy() + log_density)
    phi[log_density < log_density.max() - 7] = np.nan
    shown = (phi - np.nanmax(phi)).reshape(121, 121)
    mesh = axis.pcolormesh(side, side, shown, cmap="cividis", shading="gouraud", vmin=-17, vmax=0)
    axis.contour(side, side, shown, 8, colors="white", linewidths=0.6, linestyles="solid")
    axis.set(title=f"$t$ = {t:g}", xlabel="$x_1$")
axes[0].set_ylabel("$x_2$")
figure.colorbar(mesh, ax=axes, label=r"$\varphi$, up to a constant")

# %%
# Free energy, and the certified error beside the true one.

figure, axes = plt.subplots(1, 2, figsize=(9.8, 3.6), layout="constrained")
FreeEnergyDisplay.from_estimator(fit, ax=axes[0])
CertificateDisplay.from_estimator(
    fit, reference=problem, times=[0.3, 0.6, 0.9, 1.2, 1.5, 1.8], ax=axes[1]
)

# %%
# The law as it moves.

animation = animate(fit, n_grid=61, fps=12)

# %%
# Errors against the finite volumes, whose own error is about 1e-8: smaller numbers, of either sign,
# are that.

print(f"{'t':>4} {'worst marginal KL':>18} {'joint KL':>9} {'certified':>10}")
for t in (0.3, 0.6, 0.9, 1.2, 1.5, 1.8):
    kl = metrics.marginal_kl(fit, problem, t)
    print(f"{t:4.1f} {kl.max():18.1e} {kl.sum():9.1e} {fit.certificate_.kl(t):10.1e}")
print(f"\nwall time: {time.perf_counter() - start:.1f} s")
