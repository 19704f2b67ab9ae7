r"""
Planar layers, one after another
================================

The counterpart of the paper's Figure 2: a planar layer x + u tanh(w . x + b) acts along one
direction, and a composition of them bends the plane step by step. Here the layers are fitted: ten
of them take N(0, I) to the equilibrium of a potential with the shape of a banana, by following the
Fokker-Planck equation.

The map is invertible for every value of its parameters, since u is built such that w . u > -1.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
import torch

from skfokker import ParametricFokkerPlanck
from skfokker.flows import PlanarFlow


def banana(x):
    return 0.5 * (x[:, 0] / 1.3) ** 2 + (x[:, 1] - 0.6 * x[:, 0] ** 2 + 1.0) ** 2


start = time.perf_counter()
fit = ParametricFokkerPlanck(PlanarFlow(10), n_features=2, tol=0.1, random_state=0)
fit.fit(banana, t_final=1.0)
print(f"fit: {time.perf_counter() - start:.1f} s, {fit.thetas_.shape[1]} parameters")

# %%
# The first k layers of the fitted map, acting on a grid and on samples of N(0, I). (The scale
# differs between panels: layers in between stretch what later ones fold back.)

theta = torch.as_tensor(fit.thetas_[-1])
size = PlanarFlow(1).n_parameters(2)
lines = np.linspace(-2.5, 2.5, 21)
fine = np.linspace(-2.5, 2.5, 200)
horizontal = np.stack([np.tile(fine, (21, 1)), np.tile(lines[:, None], (1, 200))], -1)
grid = torch.as_tensor(np.concatenate([horizontal, horizontal[..., ::-1]]))
dots = torch.randn(1500, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

figure, axes = plt.subplots(2, 3, figsize=(9.6, 6.6), layout="constrained")
for axis, k in zip(axes.ravel(), (0, 1, 2, 4, 7, 10), strict=True):
    flow, part = PlanarFlow(k), theta[: k * size]
    lines_y = flow.forward(part, grid.reshape(-1, 2))[0] if k else grid.reshape(-1, 2)
    dots_y = flow.forward(part, dots)[0] if k else dots
    for line in lines_y.reshape(grid.shape).numpy():
        axis.plot(*line.T, color="#0072B2", lw=0.5, alpha=0.7)
    axis.plot(*dots_y.T.numpy(), ".", color="#D55E00", ms=1.6, alpha=0.6)
    low, high = np.quantile(dots_y.numpy(), [0.005, 0.995], axis=0)
    centre, half = (low + high) / 2, 0.75 * (high - low).max()
    axis.set(xlim=(centre[0] - half, centre[0] + half), ylim=(centre[1] - half, centre[1] + half))
    axis.set_title(f"after {k} layer{'s' if k != 1 else ''}")
    axis.set_aspect("equal")
for axis in axes[1]:
    axis.set_xlabel("$x_1$")
for axis in axes[:, 0]:
    axis.set_ylabel("$x_2$")

# %%
# There and back again; and what ten layers cost in accuracy.

x = fit.sample(20_000, random_state=1)
error = np.abs(fit.inverse_transform(fit.transform(x)) - x).max()
print(f"largest error of T(T^-1(x)) over 20,000 points: {error:.1e}")
print(fit.certificate_)
print(f"\nwall time: {time.perf_counter() - start:.1f} s")
