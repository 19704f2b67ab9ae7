r"""
Orders of convergence
=====================

Two first-order schemes for theta' = -G^{-1} grad H (equation (27)): forward Euler, and the
semi-implicit scheme (45) that Algorithm 1 iterates on,

.. math:: \theta_{k+1} = \arg\min_\theta \; E|T_\theta - T_k|^2 + 2 h H(\theta) ,

which in one dimension needs no inner problem, because every vector field is a gradient: this is
:class:`~skfokker.schemes.SemiImplicitNested`. Measured as slopes: both have a global error of
order one and so has their difference (Theorems 27 and 33); a single semi-implicit step is off by
O(h^2) (Theorem 12).

The family is a monotone spline with six parameters, the potential a double well. Everything is
computed on one fixed quadrature, so that what is seen is the time step alone; the distance is
that of the samples, :math:`(E|T - T'|^2)^{1/2}`.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
import torch

from skfokker.equation import FokkerPlanck
from skfokker.flows import ElementwiseFlow
from skfokker.potentials import DoubleWell
from skfokker.schemes import SemiImplicitNested
from skfokker.schemes.points import normal_grid

start = time.perf_counter()
flow = ElementwiseFlow(n_intervals=6, radius=2.5)
equation = FokkerPlanck(DoubleWell(1), beta=1.0, d=1, separable=True)
n_samples = 160
x, weights = normal_grid(n_samples, 1)  # the points of the schemes as well
t_final = 0.2


def free_energy(theta):
    y, log_det = flow.forward(theta, x)
    return weights @ (equation.potential(y) - equation.beta * log_det)


def velocity(theta):
    """theta' of (27), the metric in its explicit form E[dT^T dT]."""
    theta = theta.detach().requires_grad_()
    (slope,) = torch.autograd.grad(free_energy(theta), theta)
    jacobian = flow.linearize(theta.detach(), x).jacobian()[0][:, 0]
    return -torch.linalg.solve(jacobian.T @ (weights[:, None] * jacobian), slope)


def forward_euler(theta, h):
    return theta + h * velocity(theta)


def semi_implicit(theta, h, t):
    """theta(t) by the proximal step (45), far more accurately solved than its own error."""
    scheme = SemiImplicitNested(h, n_samples=n_samples, tolerance=1e-9, damping=0.0)
    *_, last = scheme.steps(equation, flow, theta, 0.0, t, torch.Generator())
    return last.theta


def runge_kutta(theta, h):
    """Fourth order: the reference, with far smaller steps."""
    k1 = velocity(theta)
    k2 = velocity(theta + h / 2 * k1)
    k3 = velocity(theta + h / 2 * k2)
    k4 = velocity(theta + h * k3)
    return theta + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def march(step, theta, t, n):
    for _ in range(n):
        theta = step(theta, t / n)
    return theta


def distance(theta, other):
    gap = flow.forward(theta, x)[0] - flow.forward(other, x)[0]
    return float((weights @ gap.square().sum(1)).sqrt())


begin = flow.init(1)
exact = march(runge_kutta, begin, t_final, 200)
counts = np.array([16, 32, 64])
global_h = t_final / counts
euler = [march(forward_euler, begin, t_final, n) for n in counts]
implicit = [semi_implicit(begin, h, t_final) for h in global_h]
errors = {
    "forward Euler, global": (global_h, [distance(e, exact) for e in euler], 1),
    "semi-implicit (45), global": (global_h, [distance(i, exact) for i in implicit], 1),
    "their difference": (
        global_h,
        [distance(e, i) for e, i in zip(euler, implicit, strict=True)],
        1,
    ),
}
local_h = 0.01 / 2 ** np.arange(6)
local = [
    distance(semi_implicit(begin, h, h), march(runge_kutta, begin, float(h), 10)) for h in local_h
]
errors["semi-implicit, one step"] = (local_h, local, 2)

# %%
# Slopes between the two smallest steps.

figure, axis = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
styles = ("o-", "s-", "^--", "d-")
colours = ("#D55E00", "#0072B2", "#E69F00", "#009E73")
for (name, (h, error, order)), style, colour in zip(errors.items(), styles, colours, strict=True):
    slope = np.log(error[-2] / error[-1]) / np.log(h[-2] / h[-1])
    axis.loglog(h, error, style, color=colour, label=f"{name}: slope {slope:.2f}")
    print(f"{name:28} slope {slope:.3f}, expected {order}, error {error[-1]:.1e} at h = {h[-1]:g}")
axis.set(xlabel="time step $h$", ylabel=r"error $(\mathrm{E}|T - T'|^2)^{1/2}$")
axis.legend(frameon=False)
axis.grid(alpha=0.3)

print(f"\nwall time: {time.perf_counter() - start:.1f} s")
