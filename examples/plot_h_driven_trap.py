r"""
The work on a driven trap
=========================

A bead in a harmonic trap whose centre :math:`\lambda(t)` is dragged along:

.. math:: dx = -k \, (x - \lambda(t)) \, dt + \sqrt{2 \beta} \, dB .

Whoever drags does the work :math:`W = \int_0^t \partial_s V(x_s, s) \, ds =
-\int_0^t k \, \lambda'(s) \, (x_s - \lambda(s)) \, ds` on the bead, which differs from one bead to
the next. Its law is that of one more coordinate, dW = -k lambda' (x - lambda) dt, without noise of
its own: a linear equation in the plane, depending on time, with a degenerate D. Such equations are
solved by their moments, to rounding.

Two identities of stochastic thermodynamics are the check. The trap keeps its shape, so the free
energy difference of its ends is 0, and from an equilibrium Jarzynski's equality
:math:`E[e^{-W / \beta}] = 1` holds however fast it is dragged; for a Gaussian W this is
:math:`E[W] = Var(W) / 2 \beta` (C. Jarzynski, Physical Review Letters 78 (1997)).
"""

import time

import matplotlib.pyplot as plt
import numpy as np
import torch

from skfokker import Equation, ParametricFokkerPlanck
from skfokker.reference import langevin

start = time.perf_counter()
stiffness, beta, blur = 2.0, 0.5, 1e-4  # W starts with the variance blur: a density needs one


def centre(t):
    return np.sin(2 * t)


def speed(t):
    return 2 * np.cos(2 * t)


def bead_and_work(x, t):
    pull = -stiffness * (x[:, 0] - centre(t))
    return torch.stack([pull, speed(t) * pull], 1)


equation = Equation(drift=bead_and_work, diffusion=[beta, 0.0])
rho_0 = [0.0, 0.0], [beta / stiffness, blur]
fit = ParametricFokkerPlanck(initial=rho_0, random_state=0).fit(equation, t_final=3.0)
print(f"{len(fit.times_) - 1} steps\n{fit.plan_}\n{fit.certificate_}")


def moments_of_work(t):
    """Mean and variance of W from the affine map, without what it was blurred by."""
    images = fit.inverse_transform(np.vstack([np.zeros(2), np.eye(2)]), t)[:, 1]
    return images[0], ((images[1:] - images[0]) ** 2).sum() - blur


# %%
# The law of the work at four times, with a histogram of what 20,000 simulated beads have cost.

times = [0.2, 0.8, 1.5, 3.0]
x0 = np.random.default_rng(0).standard_normal((20_000, 2)) * np.sqrt(rho_0[1])
particles = langevin(equation, times, x0=x0, n_steps=300, weak_order=2)
figure, axes = plt.subplots(1, 4, figsize=(13, 3.3), layout="constrained")
for axis, t, x in zip(axes, times, particles, strict=True):
    mean, variance = moments_of_work(t)
    w = np.linspace(mean - 4 * variance**0.5, mean + 4 * variance**0.5, 200)
    axis.hist(x[:, 1], 60, density=True, color="0.8")
    axis.plot(w, np.exp(-((w - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance))
    axis.axvline(mean, color="0.4", lw=1)
    axis.set(title=f"t = {t:g}", xlabel="work")
axes[0].set(ylabel="density")

# %%
# The joint law of bead and work, and the current of probability within it: work is done where the
# bead lags behind, on the side from which the trap has moved away.

moment = 0.4
figure, axis = plt.subplots(figsize=(4.6, 3.8), layout="constrained")
side = np.linspace(-1.0, 1.8, 24), np.linspace(-1.2, 2.2, 24)
nodes = np.stack(np.meshgrid(*side), -1)
density = np.exp(fit.log_density(nodes.reshape(-1, 2), moment)).reshape(24, 24)
current = fit.current(nodes.reshape(-1, 2), moment).reshape(nodes.shape)
axis.contourf(*side, density, 12, cmap="Blues")
axis.quiver(*nodes.reshape(-1, 2).T, *current.reshape(-1, 2).T, pivot="mid")
axis.axvline(centre(moment), color="0.4", lw=1)
axis.set(title=f"t = {moment:g}", xlabel="bead (line: centre of the trap)", ylabel="work")

# %%
# Mean work, the half of its variance over beta, and Jarzynski's estimate of the free energy
# difference 0, from the fit and from the beads.

print(f"{'t':>4} {'E[W]':>9} {'Var(W) / 2 beta':>16} {'of beads':>9} "
      f"{'-beta log E[e^(-W / beta)]':>27} {'of beads':>9}")  # fmt: skip
for t, x in zip(times, particles, strict=True):
    mean, variance = moments_of_work(t)
    beads = -beta * np.log(np.mean(np.exp(-x[:, 1] / beta)))
    print(f"{t:4.1f} {mean:9.6f} {variance / (2 * beta):16.6f} {x[:, 1].mean():9.3f} "
          f"{mean - variance / (2 * beta):27.1e} {beads:9.3f}")  # fmt: skip
print(f"\nwall time: {time.perf_counter() - start:.1f} s")
