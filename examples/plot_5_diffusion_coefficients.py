r"""
Three diffusion coefficients
============================

The study of beta in section 6: the Styblinski-Tang potential with beta = 0.1, 1 and 10. Little
noise lets the drift squeeze the mass into the bottoms of the wells; much noise hardly lets them
show.

At beta = 0.1 the certificate costs most: the bound divides the residual by 4 beta, and the wells
are reached through a map that has to compress N(0, 1) by large factors.
"""

import time

import matplotlib.pyplot as plt

from skfokker import ParametricFokkerPlanck, metrics, problems
from skfokker.plotting import MarginalDensityDisplay, PlaneDensityDisplay

start = time.perf_counter()
betas, fits, laws = (0.1, 1.0, 10.0), {}, {}
for beta in betas:
    laws[beta] = problem = problems.load("styblinski-tang-10d", beta=beta)
    clock = time.perf_counter()
    fits[beta] = ParametricFokkerPlanck(beta=beta, random_state=0).fit(problem.potential, 1.8)
    print(f"beta = {beta}: {time.perf_counter() - clock:.1f} s")

# %%
# The marginal of a coordinate, with the finite-volume solution under it.

figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
for axis, beta in zip(axes, betas, strict=True):
    MarginalDensityDisplay.from_estimator(
        fits[beta], [0.1, 0.3, 0.6, 1.8], reference=laws[beta], reference_name="finite volumes",
        ax=axis,
    )  # fmt: skip
    axis.set_title(rf"$\beta$ = {beta:g}")
    axis.get_legend().set_visible(beta == 0.1)

# %%
# Two coordinates at t = 1.8.

figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
for axis, beta in zip(axes, betas, strict=True):
    PlaneDensityDisplay.from_estimator(fits[beta], [1.8], ax=axis)
    axis.set_title(rf"$\beta$ = {beta:g}, $t$ = 1.8")

# %%
# Errors: KL divergence of the joint law in ten dimensions.

print(f"{'beta':>5} {'t':>4} {'KL':>8} {'certified':>10}")
for beta in betas:
    for t in (0.3, 1.8):
        kl = metrics.kl_to_exact(fits[beta], laws[beta], t)
        print(f"{beta:5.1f} {t:4.1f} {kl:8.1e} {fits[beta].certificate_.kl(t):10.1e}")
print(f"\nwall time: {time.perf_counter() - start:.1f} s")
