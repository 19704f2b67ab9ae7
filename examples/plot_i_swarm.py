r"""
A swarm that keeps its distance
===============================

Infinitely many birds follow a leader to and fro, and each gives way to those around it:

.. math:: dX = \left[ \ell(t) - X - E \, W'(X - X') \right] dt + \sqrt{2 D} \, dB , \qquad
          W(r) = 2 \, e^{-r^2 / 2} ,

X' being another bird of the same law: the equation is not linear in its law (McKean-Vlasov). What
acts on the law is its own mean field, computed from points of it at every step of the march.
Without W the swarm would stay the Gaussian it starts as.

A residual is no bound here, because an error of the law is an error of its force: the certificate
says so. The check is simulation, 4,000 birds that see a batch of others in every step.
"""

import math
import time

import matplotlib.pyplot as plt
import numpy as np

from skfokker import Equation, ParametricFokkerPlanck
from skfokker.reference import langevin

start = time.perf_counter()


def leader(t):
    return 2 * math.sin(math.pi * t)


def follow(x, t):
    return leader(t) - x


def apart(r):
    return 2 * (-r.square().sum(1) / 2).exp()


swarm = Equation(drift=follow, diffusion=0.1, interaction=apart, n_features=1)
alone = Equation(drift=follow, diffusion=0.1, n_features=1)
rho_0, t_final = (0.0, 0.1), 2.0
fit = ParametricFokkerPlanck(initial=rho_0, random_state=0, tol=0.1).fit(swarm, t_final)
loners = ParametricFokkerPlanck(initial=rho_0, random_state=0).fit(alone, t_final)
print(f"{len(fit.times_) - 1} steps\n{fit.plan_}\n{fit.certificate_}")

times = np.linspace(0, t_final, 41)
x0 = math.sqrt(rho_0[1]) * np.random.default_rng(0).standard_normal((4000, 1))
clock = time.perf_counter()
birds = langevin(swarm, times, x0=x0, n_steps=80)
print(f"4,000 birds in 80 steps: {time.perf_counter() - clock:.1f} s")

# %%
# The density of the swarm in time, with the roads of twelve simulated birds and, dashed, of the
# leader; and the law at the end, with a histogram of the birds. Who keeps a distance needs room,
# and is spread more evenly.

side = np.linspace(-3.2, 3.2, 201)
density = np.stack([np.exp(fit.log_density(side[:, None], t)) for t in times], 1)
figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
mesh = axes[0].pcolormesh(times, side, density, cmap="viridis", shading="gouraud")
axes[0].plot(times, birds[:, :12, 0], color="white", lw=0.5)
axes[0].plot(times, [leader(t) for t in times], "--", color="orange")
axes[0].set(xlabel="t", ylabel="x", title="density, birds, leader")
figure.colorbar(mesh, ax=axes[0], label="density")
axes[1].hist(birds[-1, :, 0], 60, density=True, color="0.8", label="birds")
for model, label in ((fit, "with interaction"), (loners, "without")):
    axes[1].plot(side, np.exp(model.log_density(side[:, None], t_final)), label=label)
axes[1].set(xlabel="x", ylabel="density", title=f"t = {t_final:g}")
axes[1].legend()

# %%
# Moments and mean log-likelihood of the simulated birds, with its standard error.

print(f"{'t':>4} {'mean':>7} {'of birds':>9} {'variance':>9} {'of birds':>9} "
      f"{'log-likelihood':>15} {'of draws':>9} {'error':>6}")  # fmt: skip
for t, x in zip(times[::10], birds[::10], strict=True):
    draws = fit.sample(20_000, t, random_state=1)
    there, own = fit.log_density(x, t), fit.log_density(draws, t)
    print(f"{t:4.1f} {draws.mean():7.3f} {x.mean():9.3f} {draws.var():9.3f} {x.var():9.3f} "
          f"{there.mean():15.3f} {own.mean():9.3f} {there.std() / len(x) ** 0.5:6.3f}")  # fmt: skip
print(f"\nwall time: {time.perf_counter() - start:.1f} s")
