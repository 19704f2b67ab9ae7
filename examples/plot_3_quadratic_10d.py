r"""
Ten dimensions, correlated
==========================

Section 6.1.2: V(x) = (x - mu)^T Sigma^{-1} (x - mu) / 2 with Sigma = diag(Sigma_A, I, Sigma_B, I,
Sigma_C) in blocks of two, Sigma_A = [[5, -3], [-3, 5]] / 8.

**The printed solution is wrong in block A.** Along (1, 1) the eigenvalue of Sigma_A^{-1} is 4, so
that

.. math:: m_A(t) = (1 - e^{-4t}) (1, 1), \qquad
          \Sigma_A(t) = \begin{pmatrix} 5/8 + f & -3/8 + f \\ -3/8 + f & 5/8 + f \end{pmatrix},
          \quad f(t) = \tfrac38 e^{-8t}

where the paper has the rate 1 in the mean. The dotted line below is the printed one.
"""

import time

import numpy as np

from skfokker import ParametricFokkerPlanck, metrics, problems
from skfokker.plotting import MomentsDisplay, PairDensityDisplay, SampleProjectionDisplay
from skfokker.reference import kl_gaussians

start = time.perf_counter()
problem = problems.load("quadratic-10d")
fit = ParametricFokkerPlanck(random_state=0).fit(problem.potential, t_final=2.0)
print(f"fit: {time.perf_counter() - start:.2f} s, {len(fit.times_) - 1} steps, {fit.flow_}")

# %%
# Means of one coordinate of every block, variances, and the covariance within block A.

display = MomentsDisplay.from_estimator(
    fit, coordinates=[0, 5, 9], covariance_pairs=[(0, 1)], reference=problem
)
left = display.axes_[0]
left.plot(display.times, 1 - np.exp(-display.times), ":k")
left.annotate("$x_1$ as printed", (0.45, 0.36), (0.75, 0.1), arrowprops={"arrowstyle": "-"})

# %%
# Pairs of coordinates at t = 0.5. Within block A they are anticorrelated; between blocks they are
# independent.

PairDensityDisplay.from_estimator(fit, 0.5, coordinates=[0, 1, 5, 9], reference=problem)

# %%
# Samples of the fit over samples of the exact law, in the plane of block A.

SampleProjectionDisplay.from_estimator(
    fit, [0.0, 0.1, 0.5, 2.0], coordinates=(0, 1), reference=problem, reference_name="exact"
)

# %%
# Errors.

print(f"{'t':>4} {'mean error':>11} {'cov. error':>11} {'KL':>8} {'certified KL':>13}")
for t in problem.times:
    mean, covariance = metrics.moments(fit, t)
    exact_mean, exact_covariance = problem.moments(t)
    print(f"{t:4.1f} {np.abs(mean - exact_mean).max():11.1e} "
          f"{np.abs(covariance - exact_covariance).max():11.1e} "
          f"{kl_gaussians(mean, covariance, exact_mean, exact_covariance):8.1e} "
          f"{fit.certificate_.kl(t):13.1e}")  # fmt: skip
printed = 1 - np.exp(-0.5)
print(f"\nmean of x_1 at t = 0.5: fit {metrics.moments(fit, 0.5)[0][0]:.4f}, exact "
      f"{problem.moments(0.5)[0][0]:.4f}, as printed {printed:.4f}")  # fmt: skip
print(f"\nwall time: {time.perf_counter() - start:.1f} s")
