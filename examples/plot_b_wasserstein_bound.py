r"""
The Wasserstein bound against the exact distance
================================================

Theorems 20 and 26 bound the Wasserstein distance between the fit and the exact law where Hess V >=
lambda:

.. math:: W_2(t) \le e^{-\lambda t} W_2(0) + \int_0^t e^{-\lambda (t - s)} \|r(s)\| \, ds .

The paper assumes a uniform bound delta on the residual; here r is measured on fresh samples. For
quadratic V both laws are Gaussian and the distance has a closed form, so that the bound can be
tested. The marches below are made crude on purpose, with few and large time steps.
"""

import time
import warnings

import matplotlib.pyplot as plt
import numpy as np
from scipy.linalg import sqrtm
from sklearn.exceptions import ConvergenceWarning

from skfokker import ParametricFokkerPlanck, metrics, problems
from skfokker.schemes import LeastSquaresNested

start = time.perf_counter()
warnings.simplefilter("ignore", ConvergenceWarning)  # crude on purpose


def wasserstein(mean0, covariance0, mean1, covariance1):
    """Exact W2 distance of two Gaussians."""
    root = np.real(sqrtm(covariance0))
    cross = np.real(sqrtm(root @ covariance1 @ root))
    spread = np.trace(covariance0 + covariance1 - 2 * cross)
    return np.sqrt(((mean0 - mean1) ** 2).sum() + max(spread, 0.0))


names = ("quadratic-2d-iso", "quadratic-2d-aniso", "quadratic-10d")
tolerances = (1e-1, 1e-2, 1e-3)
figure, axes = plt.subplots(1, 3, figsize=(11, 3.8), layout="constrained")
print(f"{'problem':20} {'tolerance':>9} {'lambda':>7} {'exact W2':>9} {'bound':>8}  at t_final / 2")
for axis, name in zip(axes, names, strict=True):
    problem = problems.load(name)
    for tolerance, colour in zip(tolerances, ("#D55E00", "#009E73", "#0072B2"), strict=True):
        scheme = LeastSquaresNested(tolerance, max_step=0.35)
        fit = ParametricFokkerPlanck(scheme=scheme, random_state=0)
        fit.fit(problem.potential, problem.t_final)
        t = np.linspace(0.05, 1, 30) * problem.t_final
        exact = np.array(
            [wasserstein(*metrics.moments(fit, s), *problem.moments(float(s))) for s in t]
        )
        bound = fit.certificate_.w2(t)
        axis.semilogy(t, bound, color=colour, label=f"bound, tolerance {tolerance:g}")
        axis.semilogy(t, np.maximum(exact, 1e-12), ":", color=colour, lw=2)
        half = len(t) // 2
        print(f"{name:20} {tolerance:9g} {fit.certificate_.convexity:7.2f} "
              f"{exact[half]:9.1e} {bound[half]:8.1e}")  # fmt: skip
        assert (exact <= bound).all()
    axis.set(title=name, xlabel="time $t$", ylabel="$W_2$(fit, exact)")
axes[0].plot([], [], ":", color="grey", lw=2, label="exact distance")
axes[0].legend(frameon=False, fontsize="small")

print("\nthe bound holds at all times shown")
print(f"wall time: {time.perf_counter() - start:.1f} s")
