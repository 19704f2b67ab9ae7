r"""
Inside Algorithm 1
==================

The counterpart of the paper's Figures 13, 14 and 23: the dual potential of the nested scheme as a
surface, and the losses of its inner loop. Twenty time steps of `AdamNested` on the anisotropic
quadratic of section 6.1.1; the whole run to t = 1.4 takes about five minutes and can be made by
changing ``t_final``.

Divided by the time step, the dual potential is the potential of the velocity: it approximates
-(V + beta log rho). Here that is linear along x_1, where the law has the right width from the start
and only moves, and bent along x_2, where it also contracts; the bend goes as the width settles.

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
problem = problems.load("quadratic-2d-aniso")
scheme = AdamNested(keep_inner_losses=True, keep_dual={1, 10, 20})
fit = ParametricFokkerPlanck(PlanarFlow(60), scheme, random_state=0)
fit.fit(problem.potential, t_final=0.1)
print(f"AdamNested, 20 time steps: {time.perf_counter() - start:.0f} s")

# %%
# The dual potential after time steps 1, 10 and 20, over the region where the law has its mass.

DualPotentialDisplay.from_estimator(fit)

# %%
# Losses of the inner loop. Every outer step moves the target, hence the teeth; the first time step
# starts from an untrained dual.

display = InnerLossDisplay.from_estimator(fit, [0.005, 0.05, 0.1])

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
closed = ParametricFokkerPlanck(random_state=0).fit(problem.potential, t_final=0.1)
print(f"closed form: {time.perf_counter() - clock:.2f} s")

figure, axis = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
times = np.linspace(0, 0.1, 21)
axis.plot(times, [problem.moments(t)[0][1] for t in times], color="grey", lw=6, alpha=0.4,
          label="exact")  # fmt: skip
for model, label, style in (
    (closed, "closed form", "-"),
    (fit, "AdamNested", "--"),
    (printed, "as printed", ":"),
):
    inside = times[times <= model.t_final_]
    axis.plot(inside, [metrics.moments(model, t)[0][1] for t in inside], style, label=label)
axis.set(xlabel="time $t$", ylabel="mean of $x_2$")
axis.legend(frameon=False)

# %%
# Errors, relative.

for model, label in ((closed, "closed form"), (fit, "AdamNested"), (printed, "as printed")):
    t = model.t_final_
    (mean, covariance), (exact_mean, exact_covariance) = (
        metrics.moments(model, t),
        problem.moments(t),
    )
    print(f"{label:12} t = {t:4.2f}: "
          f"mean {np.linalg.norm(mean - exact_mean) / np.linalg.norm(exact_mean):.1e}, "
          f"covariance "
          f"{np.linalg.norm(covariance - exact_covariance) / np.linalg.norm(exact_covariance):.1e}")  # fmt: skip  # noqa: E501
print(f"\nwall time: {time.perf_counter() - start:.1f} s")
