r"""
One mode becomes nine
=====================

A mixture of nine unit Gaussians with random centres, from N(0, 16 I): the law starts with one mode
and ends with nine, of which some run into each other (the benchmark of Mokrov et al., "Large-Scale
Wasserstein Gradient Flows" (2021), with centres of our own). Smooth maps of one Gaussian do this
badly: whatever lies between two modes has to be squeezed into thin filaments.

In more than two dimensions `fit` sends particles ahead, sees that they end in several places that
Gaussians describe, and takes :class:`~skfokker.flows.MixtureFlow`: the exact map from N(0, I) to a
mixture, whose components start as the parts of rho_0 that end in different modes. Their weights
change as they go. The particles decide where the march starts in the family and on nothing else;
it then solves the equation.

In the plane, where the truth is known from finite volumes, the default is
:class:`~skfokker.flows.ConditionalFlow`; here the mixture is asked for by name, and both are
compared.
"""

import time
import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.exceptions import ConvergenceWarning

from skfokker import ParametricFokkerPlanck, metrics, problems
from skfokker.flows import MixtureFlow
from skfokker.plotting import CertificateDisplay, FreeEnergyDisplay, PlaneDensityDisplay
from skfokker.reference import finite_volumes_2d

warnings.simplefilter("ignore", ConvergenceWarning)  # the certificate stays above the default tol
start = time.perf_counter()
problem = problems.load("nine-gaussians")
rho_0 = problem.initial_mean, problem.initial_covariance
fit = ParametricFokkerPlanck(MixtureFlow(15), initial=rho_0, random_state=0)
fit = fit.fit(problem.potential, t_final=4.0)
print(f"fit: {time.perf_counter() - start:.0f} s, {len(fit.times_) - 1} steps, {fit.flow_}")
print(fit.certificate_)
clock = time.perf_counter()
splines = ParametricFokkerPlanck(initial=rho_0, random_state=0).fit(problem.potential, t_final=4.0)
print(f"default: {time.perf_counter() - clock:.0f} s\n{splines.plan_}\n{splines.certificate_}")

clock = time.perf_counter()
exact = finite_volumes_2d(
    problem.potential, 4.0, initial=rho_0, domain=[(-20, 20)] * 2, tol=1e-2, n_nodes=32
)
print(f"finite volumes: {time.perf_counter() - clock:.0f} s, own KL error {exact.error**2 / 2:.0e}")

# %%
# The density of the fit, with contours of the finite volumes that hold 10, 50 and 90 % of the mass;
# and the target.

times, extent = [0.0, 0.25, 1.0, 4.0], (-8, 8, -8, 8)
figure, axes = plt.subplots(1, 5, figsize=(15, 3.5), layout="constrained", sharey=True)
display = PlaneDensityDisplay.from_estimator(
    fit, times, extent=extent, reference=exact, reference_name="finite volumes", ax=axes[:4],
    colorbar=False,
)  # fmt: skip
side = np.linspace(-8, 8, 161)
plane = np.stack(np.meshgrid(side, side), -1)
target = np.exp(problem.stationary_log_density(plane.reshape(-1, 2))).reshape(161, 161)
mesh = axes[4].pcolormesh(
    side, side, target, cmap="viridis", shading="gouraud", vmin=0, vmax=display.densities.max()
)
axes[4].plot(*problem.potential.means.T, "x", color="white", ms=5)
axes[4].set(title="target and its centres", xlabel="$x_1$", xlim=(-8, 8), ylim=(-8, 8))
figure.colorbar(mesh, ax=axes, label="density of $(x_1, x_2)$")

# %%
# The certified error beside the true one, and the free energy above its equilibrium.

figure, axes = plt.subplots(1, 2, figsize=(9.8, 3.6), layout="constrained")
CertificateDisplay.from_estimator(fit, reference=exact, ax=axes[0])
FreeEnergyDisplay.from_estimator(fit, excess=True, ax=axes[1])

# %%
# Errors: KL divergences from the law at time t, and the sum of both directions to the target. The
# last column is that of the exact law, which has not quite arrived either.

side = np.linspace(-20, 20, 401)
grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
log_target = problem.stationary_log_density(grid)


def jeffreys(log_density):
    """KL(p | target) + KL(target | p) on the grid."""
    gap = log_density - log_target
    return np.sum((np.exp(log_density) - np.exp(log_target)) * gap) * 0.1**2


print(f"{'t':>4} {'KL(fit | exact)':>16} {'certified':>10} {'of the default':>15} "
      f"{'certified':>10} {'fit to target':>14} "
      f"{'exact to target':>16}")  # fmt: skip
for t in problem.times:
    kl = metrics.kl_to_exact(fit, exact, t)
    default = metrics.kl_to_exact(splines, exact, t)
    print(f"{t:4.1f} {kl:16.1e} {fit.certificate_.kl(t):10.1e} {default:15.1e} "
          f"{splines.certificate_.kl(t):10.1e} "
          f"{jeffreys(fit.log_density(grid, t)):14.3f} "
          f"{jeffreys(exact.log_density(grid, t)):16.3f}")  # fmt: skip
print(f"\nwall time: {time.perf_counter() - start:.1f} s")
