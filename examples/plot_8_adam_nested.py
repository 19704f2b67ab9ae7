r"""
Inside Algorithm 1
==================

The counterpart of the paper's Figures 13, 14 and 23: the dual potential of the nested scheme as a
surface, and the losses of its inner loop, over the whole march of the isotropic quadratic of
section 6.1.1 with the paper's sixty planar layers.

Divided by the time step, the dual potential is the potential of the velocity: it approximates
-(V + beta log rho). At first it rises towards the minimum of V at (3, 3) and is bent, since the law
also contracts; the bend goes as the width settles. At t = 0.7 a few per cent are left of either,
and the noise of the inner loop shows.

Two remarks on the printed settings of section 6. The learning rates are the wrong way round (the
authors' program has them as they are here), and a dual restarted from near zero at every time step
has no gradient for dozens of inner steps, so that theta runs ahead of the equation.
``AdamNested.as_printed()`` is kept to show it.
"""

import time
import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.exceptions import ConvergenceWarning

from skfokker import ParametricFokkerPlanck, metrics, problems
from skfokker.flows import PlanarFlow
from skfokker.plotting import DualPotentialDisplay, InnerLossDisplay
from skfokker.schemes import AdamNested

warnings.simplefilter("ignore", ConvergenceWarning)  # Algorithm 1 misses the default tol
start = time.perf_counter()
problem = problems.load("quadratic-2d-iso")
scheme = AdamNested(keep_inner_losses=True, keep_dual={1, 20, 140})
fit = ParametricFokkerPlanck(PlanarFlow(60), scheme, random_state=0)
fit.fit(problem.potential, t_final=0.7)
print(f"AdamNested, {len(fit.times_) - 1} time steps: {time.perf_counter() - start:.0f} s")

# %%
# The dual potential after time steps 1, 20 and 140, over the region where the law has its mass.

DualPotentialDisplay.from_estimator(fit)

# %%
# Losses of the inner loop. Every outer step moves the target, hence the teeth; the first time step
# starts from an untrained dual.

display = InnerLossDisplay.from_estimator(fit, [0.005, 0.1, 0.7])

# %%
# The printed settings beside the defaults and the closed form of the inner problem. (Ten inner
# batches instead of fresh samples make the printed settings four times faster and no better.)

clock = time.perf_counter()
printed = ParametricFokkerPlanck(
    PlanarFlow(60), AdamNested.as_printed(n_batches=10), random_state=0
)
printed.fit(problem.potential, t_final=0.05)
print(f"as printed, 10 time steps: {time.perf_counter() - clock:.0f} s")
clock = time.perf_counter()
closed = ParametricFokkerPlanck(random_state=0).fit(problem.potential, t_final=0.7)
print(f"closed form: {time.perf_counter() - clock:.2f} s")

figure, axis = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
times = np.linspace(0, 0.7, 141)
exact = [problem.moments(t)[0][0] for t in times]
axis.plot(times, exact, color="grey", lw=6, alpha=0.4, label="exact")
for model, label, style, colour in (
    (closed, "closed form", "-", "#0072B2"),
    (fit, "AdamNested", "--", "#E69F00"),
    (printed, "as printed", ":", "#D55E00"),
):
    inside = times[times <= model.t_final_]
    means = [metrics.moments(model, t)[0][0] for t in inside]
    axis.plot(inside, means, style, color=colour, label=label)
axis.set(xlabel="time $t$", ylabel="mean of $x_1$")
axis.legend(frameon=False)

# %%
# Errors, relative.

rows = [(closed, "closed form", 0.7), (printed, "as printed", 0.05)]
rows += [(fit, "AdamNested", t) for t in (0.05, 0.1, 0.35, 0.7)]
for model, label, t in rows:
    (mean, covariance), (exact_mean, exact_covariance) = (
        metrics.moments(model, t),
        problem.moments(t),
    )
    print(f"{label:12} t = {t:4.2f}: "
          f"mean {np.linalg.norm(mean - exact_mean) / np.linalg.norm(exact_mean):.1e}, "
          f"covariance "
          f"{np.linalg.norm(covariance - exact_covariance) / np.linalg.norm(exact_covariance):.1e}")  # fmt: skip  # noqa: E501
print(f"\nwall time: {time.perf_counter() - start:.1f} s")
