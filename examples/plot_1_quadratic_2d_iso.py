r"""
A quadratic potential in the plane
==================================

The first experiment of the paper (section 6.1.1): V(x) = 2 \|x - (3, 3)\|^2, that is a covariance
of I/4, with beta = 1 and rho_0 = N(0, I), to t = 0.7. The law stays Gaussian with known moments:

.. math:: m(t) = (1 - e^{-4t})(3, 3), \qquad
          \Sigma(t) = \left(\tfrac14 + \tfrac34 e^{-8t}\right) I .

`fit` notices that V is quadratic and takes an affine map, which has no approximation error here
(section 3.4). The same experiment with the paper's own family, planar layers, follows below.
"""

import time

from skfokker import ParametricFokkerPlanck, metrics, problems
from skfokker.flows import PlanarFlow
from skfokker.plotting import (
    CertificateDisplay,
    MomentsDisplay,
    PlaneDensityDisplay,
    SampleProjectionDisplay,
)
from skfokker.reference import kl_gaussians

start = time.perf_counter()
problem = problems.load("quadratic-2d-iso")
fit = ParametricFokkerPlanck(random_state=0).fit(problem.potential, t_final=0.7)
print(f"flow: {fit.flow_}")
print(f"fit: {time.perf_counter() - start:.2f} s, {len(fit.times_) - 1} steps")

# %%
# The density at four times; the dashed lines are the exact contours that hold 10, 50 and 90 % of
# the mass.

PlaneDensityDisplay.from_estimator(
    fit, [0.0, 0.1, 0.35, 0.7], reference=problem, reference_name="exact"
)

# %%
# Samples of the fit over samples of the exact law.

SampleProjectionDisplay.from_estimator(
    fit, [0.0, 0.1, 0.35, 0.7], reference=problem, reference_name="exact", n_samples=1500
)

# %%
# Mean and variance in time.

MomentsDisplay.from_estimator(fit, reference=problem)

# %%
# The paper's family: planar layers, twenty of them (the paper takes sixty). Most of their 100
# parameters are redundant for a law that five describe.

clock = time.perf_counter()
planar = ParametricFokkerPlanck(PlanarFlow(20), random_state=0)
planar.fit(problem.potential, t_final=0.7)
print(f"fit with planar layers: {time.perf_counter() - clock:.1f} s")
display = CertificateDisplay.from_estimator(planar, reference=problem)
display.ax_.set_title("twenty planar layers")

# %%
# Errors: the KL divergence from the exact law, and the bound that the fit gives without knowing
# it. The bound of the planar fit is far above its error: it adds up every residual along the way
# and cannot know that this law forgets its past.

print(f"{'t':>5} {'affine: KL':>12} {'certified':>10} {'planar: KL':>12} {'certified':>10}")
for t in (0.05, 0.1, 0.35, 0.7):
    affine_kl = kl_gaussians(*metrics.moments(fit, t), *problem.moments(t))
    planar_kl = metrics.kl_to_exact(planar, problem, t)
    print(f"{t:5.2f} {affine_kl:12.1e} {fit.certificate_.kl(t):10.1e} "
          f"{planar_kl:12.1e} {planar.certificate_.kl(t):10.1e}")  # fmt: skip
print(f"\nwall time: {time.perf_counter() - start:.1f} s")
