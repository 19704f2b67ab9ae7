r"""
A kinetic equation
==================

A Duffing oscillator under noise: a position without noise of its own, a velocity with friction, and
a spring that pushes away from the middle and holds further out,

.. math:: dx = v \, dt , \qquad
          dv = \left( x - \tfrac25 v - \tfrac1{10} x^3 \right) dt + \tfrac45 \, dW .

D = diag(0, 0.32) has no inverse: nothing smooths positions but the velocities that carry them. The
law of a fast start, N((0, 8), I / 2), is thrown out, turned and sheared; it is no Gaussian any more
when it turns round. :class:`~skfokker.Equation` takes the drift and the diagonal of D, and the fit
is certified in total variation, which contracts whatever D is; in nats there is no bound here.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
import torch

from skfokker import Equation, ParametricFokkerPlanck
from skfokker.plotting import PlaneDensityDisplay
from skfokker.reference import langevin

start = time.perf_counter()


def duffing(x):
    q, v = x[:, 0], x[:, 1]
    return torch.stack([v, q - 0.4 * v - 0.1 * q**3], 1)


equation = Equation(drift=duffing, diffusion=[0.0, 0.32])
rho_0 = [0.0, 8.0], 0.5
times = [0.1, 0.3, 0.5]
fit = ParametricFokkerPlanck(initial=rho_0, random_state=0, tol=0.1).fit(equation, t_final=0.5)
print(f"{len(fit.times_) - 1} steps\n{fit.plan_}\n{fit.certificate_}")

noise = np.random.default_rng(0).standard_normal((20_000, 2))
x0 = np.array(rho_0[0]) + np.sqrt(rho_0[1]) * noise
particles = langevin(equation, times, x0=x0, n_steps=200, weak_order=2)

# %%
# The density of the fit in the plane of position and velocity, with particles that it has never
# seen; the last panel has the current :math:`J = \rho v`, along which the probability flows.

figure, axes = plt.subplots(1, 4, figsize=(13, 3.6), layout="constrained")
extent = (-2.5, 6.5, 3.0, 11.0)
PlaneDensityDisplay.from_estimator(fit, times, extent=extent, ax=axes[:3], colorbar=False)
for axis, x in zip(axes[:3], particles, strict=True):
    axis.plot(*x[:300].T, ".", color="white", ms=2)
    axis.set(xlabel="position")
axes[0].set(ylabel="velocity")

side = np.linspace(extent[0], extent[1], 22), np.linspace(extent[2], extent[3], 22)
nodes = np.stack(np.meshgrid(*side), -1)
current = fit.current(nodes.reshape(-1, 2)).reshape(nodes.shape)
size = np.linalg.norm(current, axis=2)
seen = size > 0.01 * size.max()
axes[3].quiver(*nodes[seen].T, *current[seen].T, size[seen], cmap="viridis", pivot="mid")
axes[3].set(title=f"current, t = {times[-1]:g}", xlabel="position", xlim=extent[:2],
            ylim=extent[2:])  # fmt: skip

# %%
# Moments and mean log-likelihood against 20,000 particles, whose standard error is given.

print(f"{'t':>4} {'mean error':>11} {'covariance error':>17} {'log-likelihood':>15} "
      f"{'of draws':>9} {'error':>6} {'certified TV':>13}")  # fmt: skip
for t, x in zip(times, particles, strict=True):
    draws = fit.sample(20_000, t, random_state=1)
    there, own = fit.log_density(x, t), fit.log_density(draws, t)
    print(f"{t:4.1f} {np.abs(x.mean(0) - draws.mean(0)).max():11.3f} "
          f"{np.abs(np.cov(x.T) - np.cov(draws.T)).max():17.3f} {there.mean():15.3f} "
          f"{own.mean():9.3f} {there.std() / len(x) ** 0.5:6.3f} "
          f"{fit.certificate_.total_variation(t):13.3f}")  # fmt: skip
print(f"\nwall time: {time.perf_counter() - start:.1f} s")
