r"""
Can the gradient of a network be a velocity field?
==================================================

The counterpart of the paper's Figures 3 and 4. The inner problem of Algorithm 1 fits the gradient
of a network to a vector field,

.. math:: \min_\psi \; E |\nabla \varphi_\psi(Y) - v(Y)|^2 \qquad (64).

The paper takes ReLU networks, whose gradient is piecewise constant: it follows the field in the
mean, with jumps. A smooth activation costs twice as much a step and fits far better, and its
Laplacian (the contraction of the law) is right as well, which that of a ReLU network, zero almost
everywhere, is not.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
import torch

from skfokker.duals import NetworkDual

start = time.perf_counter()


def field(x):
    """The gradient of sin(x_1) cos(x_2) + |x|^2 / 4."""
    first = torch.cos(x[:, 0]) * torch.cos(x[:, 1])
    second = -torch.sin(x[:, 0]) * torch.sin(x[:, 1])
    return torch.stack([first, second], 1) + x / 2


def train(activation, n_steps=3000, n_samples=1000):
    """Adam on (64), fresh samples at every step."""
    generator = torch.Generator().manual_seed(0)
    dual = NetworkDual(activation=activation)
    psi = dual.init(2, generator).requires_grad_()
    adam = torch.optim.Adam([psi], lr=5e-3)
    decay = torch.optim.lr_scheduler.ExponentialLR(adam, 0.01 ** (1 / n_steps))
    losses = []
    for _ in range(n_steps):
        x = torch.randn(n_samples, 2, generator=generator)
        loss, psi.grad = dual.loss_gradient(psi.detach(), x, field(x))
        adam.step()
        decay.step()
        losses.append(float(loss))
    return dual, psi.detach(), losses


trained = {}
for activation in ("relu", "softplus"):
    clock = time.perf_counter()
    trained[activation] = train(activation)
    print(f"{activation}: {time.perf_counter() - clock:.1f} s")

# %%
# The fields (arrows) and the networks' potentials (colours).

side = np.linspace(-2.6, 2.6, 80)
points = torch.as_tensor(np.stack(np.meshgrid(side, side), -1).reshape(-1, 2), dtype=torch.float32)
coarse = torch.as_tensor(
    np.stack(np.meshgrid(side[::6], side[::6]), -1).reshape(-1, 2), dtype=torch.float32
)
figure, axes = plt.subplots(1, 3, figsize=(11, 3.7), layout="constrained", sharey=True)
exact = torch.sin(points[:, 0]) * torch.cos(points[:, 1]) + points.square().sum(1) / 4
panels = {"exact": (exact, field(coarse))}
for name, (dual, psi, _) in trained.items():
    panels[name] = dual.value(psi, points), dual.gradient(psi, coarse)
for axis, (name, (potential, arrows)) in zip(axes, panels.items(), strict=True):
    shown = (potential - potential.mean()).reshape(80, 80)
    mesh = axis.pcolormesh(side, side, shown, cmap="viridis", shading="gouraud")
    axis.quiver(*coarse.T, *arrows.T, color="white", scale=32, width=0.004)
    axis.set(title=name, xlabel="$x_1$")
axes[0].set_ylabel("$x_2$")
figure.colorbar(mesh, ax=axes, label=r"$\varphi$, up to a constant")

# %%
# A cut through the field, and the losses of the training.

cut = torch.stack([torch.linspace(-2.6, 2.6, 400), torch.full((400,), 0.4)], 1)
figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.6), layout="constrained")
left.plot(cut[:, 0], field(cut)[:, 0], color="grey", lw=5, alpha=0.4, label="exact")
for (name, (dual, psi, losses)), colour in zip(
    trained.items(), ("#D55E00", "#0072B2"), strict=True
):
    left.plot(cut[:, 0], dual.gradient(psi, cut)[:, 0], color=colour, lw=1.2, label=name)
    smoothed = np.convolve(losses, np.ones(20) / 20, "valid")
    right.semilogy(smoothed, color=colour, lw=1, label=name)
left.set(xlabel="$x_1$ (at $x_2$ = 0.4)", ylabel=r"$\partial_1 \varphi$")
right.set(xlabel="Adam step", ylabel=r"loss E$|\nabla\varphi - v|^2$, mean of 20")
left.legend(frameon=False)
right.legend(frameon=False)

# %%
# Errors on fresh points.

x = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(1))
for name, (dual, psi, _) in trained.items():
    error = (dual.gradient(psi, x) - field(x)).square().sum(1).mean().sqrt()
    print(f"{name}: relative error {float(error / field(x).square().sum(1).mean().sqrt()):.3f}")
print(f"\nwall time: {time.perf_counter() - start:.1f} s")
