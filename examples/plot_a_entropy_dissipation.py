r"""
Entropy dissipation, and the way to equilibrium
===============================================

Along the exact flow the free energy falls at the rate of its own dissipation,

.. math:: \frac{d}{dt} H(\rho_t) = - E |\nabla V + \beta \nabla \log \rho_t|^2 .

For a fit with velocity v = -g + r, where g = grad V + beta grad log rho and r is the residual that
the certificate measures, the same computation gives -E[v . (r - v)], and with a logarithmic Sobolev
inequality of constant lambda for the equilibrium (Theorems 16 and 19, the paper's delta measured
instead of assumed)

.. math:: KL(\rho_\theta(t) | \rho_\infty) \le e^{-\beta\lambda t} KL(\rho_\theta(0) | \rho_\infty)
          + \frac{1}{2\beta} \int_0^t e^{-\beta\lambda (t - s)} E|r(s)|^2 ds .

Both are checked for V(x) = x^2/2 + (3/4) cos(2x), which has two wells and is a bounded perturbation
of a convex potential: lambda = exp(-3/2) by Holley and Stroock.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.integrate import cumulative_trapezoid, quad

from skfokker import ParametricFokkerPlanck, metrics


def wavy(x):
    return (0.5 * x**2 + 0.75 * torch.cos(2 * x)).sum(1)


start = time.perf_counter()
fit = ParametricFokkerPlanck(n_features=1, initial=([2.0], 0.1), random_state=0)
fit.fit(wavy, t_final=8.0)
print(f"fit: {time.perf_counter() - start:.1f} s, {len(fit.times_) - 1} steps")

# %%
# The free energy is a quadrature over the reference points; its slope in time, by central
# differences of the stored interpolant, is compared with the dissipation. (The largest relative
# error is at the end, where both have fallen to nothing.)

z, weights = (a.numpy() for a in metrics.reference_points(fit))


def free_energy(t):
    y = fit.inverse_transform(z, t=t)
    return weights @ (wavy(torch.as_tensor(y)).numpy() + fit.log_density(y, t))


def dissipation(t):
    y = fit.inverse_transform(z, t=t)
    g = fit.potential_.value_and_grad(torch.as_tensor(y))[1].numpy() + fit.grad_log_density(y, t)
    return weights @ (g**2).sum(1)


times = np.concatenate([np.linspace(0.01, 0.5, 25), np.linspace(0.6, 7.9, 40)])
eps = 1e-3
slope = np.array([(free_energy(t + eps) - free_energy(t - eps)) / (2 * eps) for t in times])
fisher = np.array([dissipation(t) for t in times])
error = np.abs(slope + fisher) / fisher
print(f"|dH/dt + E|g|^2| / E|g|^2: median {np.median(error):.1e}, largest {error.max():.1e}")

# %%
# The bound on the distance to equilibrium. At early times the true decay is far faster than the
# guaranteed one: Holley and Stroock's constant is a worst case.

equilibrium = -np.log(quad(lambda x: np.exp(-0.5 * x**2 - 0.75 * np.cos(2 * x)), -12, 12)[0])
rate = np.exp(-1.5)
ends, residual = fit.certificate_.times, fit.certificate_.residual
kl_now = np.array([free_energy(t) - equilibrium for t in ends])
growth = np.concatenate([[0.0], np.cumsum(np.exp(rate * ends[1:]) * residual * np.diff(ends))])
bound = np.exp(-rate * ends) * (kl_now[0] + growth / 2)

figure, (left, right) = plt.subplots(1, 2, figsize=(9.8, 3.8), layout="constrained")
left.semilogy(times, fisher, color="grey", lw=6, alpha=0.4, label=r"$\mathrm{E}|g|^2$")
left.semilogy(times, -slope, color="#0072B2", label=r"$-dH/dt$")
left.set(xlabel="time $t$", ylabel="rate of dissipation")
left.legend(frameon=False)
right.semilogy(ends, kl_now, color="#0072B2", label=r"KL$(\rho_\theta(t)\,|\,\rho_\infty)$")
right.semilogy(ends, bound, "--", color="#D55E00", label="bound, residual included")
right.set(xlabel="time $t$", ylabel="KL to equilibrium, nats")
right.legend(frameon=False)

# %%
# The total dissipated is the free energy lost.

grid = np.linspace(0.0, 8.0, 801)
total = cumulative_trapezoid([dissipation(t) for t in grid], grid, initial=0)[-1]
print(f"H(0) - H(8) = {free_energy(0.0) - free_energy(8.0):.6f}, dissipated {total:.6f}")
print(f"bound above the truth at all {len(ends)} times: {bool((kl_now <= bound).all())}")
print(f"\nwall time: {time.perf_counter() - start:.1f} s")
