"""Problems that are no gradient flows: driven, kinetic, interacting, with noise of place."""

from __future__ import annotations

import math
from functools import cache, partial

import numpy as np
import torch

from .dynamics import Equation
from .problem_kinds import (
    ExpectationProblem,
    GaussianProblem,
    LogNormalProblem,
    PlanarProblem,
    PorousProblem,
    ProductProblem,
    random_rotation,
    register,
)
from .reference import Barenblatt


def moving_trap(x, t):
    """Pull to nu(t) = 5/4 (sin pi t + 3/2), and to each other by a quarter of that."""
    centre = 1.25 * (math.sin(math.pi * t) + 1.5)
    return centre - x + 0.25 * (x.mean(1, keepdim=True) - x)


@register("moving-trap-8d")
def _moving_trap(name):
    """Bruna, Peherstorfer and Vanden-Eijnden, "Neural Galerkin schemes" (2024): 8 particles."""
    equation = Equation(drift=moving_trap, diffusion=0.01, n_features=8)
    return GaussianProblem(
        name,
        equation,
        1.0,
        8.0,
        (1.0, 4.0, 8.0),
        initial_mean=np.linspace(0.9, 3.0, 8),
        initial_covariance=0.1 * np.eye(8),
        weak_order=2,
    )


def rotating_trap(x, t):
    """Pairs of coordinates pulled to mu(t) = 2 (cos pi^2 t, sin pi^2 t), and to -Xbar, by half."""
    pairs = x.view(len(x), -1, 2)
    angle = math.pi**2 * t
    centre = x.new_tensor([2 * math.cos(angle), 2 * math.sin(angle)])
    return (centre - pairs / 2 - pairs.mean(1, keepdim=True) / 2).reshape(x.shape)


@register("rotating-trap-100d", n=50)
def _rotating_trap(name, n):
    """Boffi and Vanden-Eijnden, "Probability flow solution of the Fokker-Planck equation" (2023).

    n particles in the plane, here each an independent pair of coordinates of one point.
    """
    return GaussianProblem(
        name,
        Equation(drift=rotating_trap, diffusion=0.25, n_features=2 * n),
        1.0,
        5.0,
        (0.5, 2.0, 5.0),
        initial_mean=np.tile([2.0, 0.0], n),
        initial_covariance=np.eye(2 * n) / 16,
        weak_order=2,
    )


def leader(x, t):
    """Pull to a point on an ellipse."""
    angle = math.pi * t / 2
    return x.new_tensor([4 * math.cos(angle), 2 * math.sin(angle)]) - x


def flock(r, t):
    """Energy of a pair: apart where sin(pi t) > 0, together where it is not."""
    return -math.sin(math.pi * t) * r.square().sum(1)


@register("swarm-2d")
def _swarm(name):
    """Shen et al., "Self-consistency of the Fokker-Planck equation" (2022): birds, mean field."""
    return GaussianProblem(
        name,
        Equation(drift=leader, diffusion=0.25, interaction=flock, n_features=2),
        1.0,
        10.0,
        (1.0, 4.0, 10.0),
        initial_covariance=np.eye(2) / 4,
        langevin_steps=2000,
    )


def kinetic_spring(x):
    """Positions, then velocities: dx = v dt, dv = (-x - 2 v) dt."""
    q, v = x.chunk(2, 1)
    return torch.cat([v, -q - 2 * v], 1)


@register("kinetic-10d", n=5, t_final=2.0, times=(0.5, 1.0, 2.0))
@register("kinetic-40d", n=20, t_final=10.0, times=(1.0, 4.0, 10.0))
def _kinetic(name, n, t_final, times):
    """n kinetic Ornstein-Uhlenbeck processes, dv = (-x - 2 v) dt + 2 dW, from N((2, 0), I / 4)."""
    return GaussianProblem(
        name,
        Equation(drift=kinetic_spring, diffusion=np.repeat([0.0, 2.0], n)),
        1.0,
        t_final,
        times,
        initial_mean=np.repeat([2.0, 0.0], n),
        initial_covariance=np.eye(2 * n) / 4,
        weak_order=2,
    )


def duffing(x):
    """Pairs (x, v): dx = v dt, dv = (x - 2/5 v - x^3 / 10) dt."""
    q, v = x.view(len(x), -1, 2).unbind(2)
    return torch.stack([v, q - 0.4 * v - 0.1 * q**3], 2).reshape(x.shape)


#: Six standard deviations of all times; the narrow law of t = 1 needs the finer grid.
_DUFFING_GRID = {
    "domain": [[-4.5, 10.0], [-7.0, 13.0]],
    "tol": 3e-2,
    "n_nodes": 128,
    "max_nodes": 256,
}


@register("duffing-2d")
@cache  # one grid for the oscillator and for its copies
def _duffing(name):
    """A Duffing oscillator under noise: dv = (x - 2/5 v - x^3 / 10) dt + 4/5 dW."""
    return PlanarProblem(
        name,
        Equation(drift=duffing, diffusion=[0.0, 0.32]),
        1.0,
        1.0,
        (0.25, 0.5, 1.0),
        initial_mean=np.array([0.0, 8.0]),
        initial_covariance=np.eye(2) / 2,
        weak_order=2,
        grid=_DUFFING_GRID,
    )


def turned(x, drift, rotation):
    """rotation b(rotation^T x)."""
    rotation = torch.as_tensor(rotation).to(x)
    return drift(x @ rotation) @ rotation.T


@register("duffing-8d")
@register("duffing-8d-rotated", rotated=True)
def _duffings(name, rotated=False):
    """Four independent Duffing oscillators, also behind a fixed rotation: the product of grids."""
    part, n = _duffing("duffing-2d"), 4
    mean, covariance = np.tile(part.initial_mean, n), np.eye(2 * n) / 2
    diffusion, drift, rotation = np.diag([0.0, 0.32] * n), duffing, None
    if rotated:
        rotation = random_rotation(2 * n, "duffing")
        mean, diffusion = rotation @ mean, rotation @ diffusion @ rotation.T
        drift = partial(turned, drift=duffing, rotation=rotation)
    return ProductProblem(
        name,
        Equation(drift=drift, diffusion=diffusion),
        1.0,
        part.t_final,
        part.times,
        initial_mean=mean,
        initial_covariance=covariance,
        weak_order=2,
        parts=(part,),
        which=(0,) * n,
        blocks=tuple((2 * k, 2 * k + 1) for k in range(n)),
        rotation=rotation,
    )


def swimmer(x):
    """dx = (v - x^3) dt, dv = -v / 10 dt."""
    q, v = x.unbind(1)
    return torch.stack([v - q**3, -0.1 * v], 1)


@register("swimmer-2d")
def _swimmer(name):
    """A particle that swims and is held back: dv = -v / 10 dt + sqrt(1/5) dW, from N(0, I).

    Drift alone compresses x from +-4 to +-0.8, its ends within hundredths: they need the grid.
    """
    grid = {"domain": [[-5.0, 5.0], [-6.0, 6.0]], "tol": 0.1, "n_nodes": (512, 32)}
    return PlanarProblem(
        name,
        Equation(drift=swimmer, diffusion=[0.0, 0.1]),
        1.0,
        1.0,
        (0.5, 1.0),
        langevin_steps=2000,
        weak_order=2,
        grid=grid | {"max_nodes": 2048},
    )


_STRENGTH, _RANGE = 0.1, 0.5  # of the repulsion between the ends of a dumbbell


def dumbbell(x):
    """(q - 1/2) x + x_2 e_1, q = a / (2 p^5) exp(-|x|^2 / 2 p^2)."""
    bump = torch.exp(-x.square().sum(1) / (2 * _RANGE**2))
    flow = (_STRENGTH / (2 * _RANGE**5) * bump - 0.5)[:, None] * x
    return flow + torch.nn.functional.pad(x[:, 1:2], (0, 2))


def _spring(x: np.ndarray) -> np.ndarray:
    """phi'(x) = (1 - a / p^5 exp(-|x|^2 / 2 p^2)) x."""
    bump = np.exp(-(x**2).sum(1) / (2 * _RANGE**2))
    return (1 - _STRENGTH / _RANGE**5 * bump)[:, None] * x


def shear_stress(x: np.ndarray) -> np.ndarray:
    """x_1 phi'_2."""
    return x[:, 0] * _spring(x)[:, 1]


def normal_stress(x: np.ndarray) -> np.ndarray:
    """x_1 phi'_1 - x_2 phi'_2."""
    force = _spring(x)
    return x[:, 0] * force[:, 0] - x[:, 1] * force[:, 1]


@register("dumbbell-3d")
def _dumbbell(name):
    """A dumbbell in shear flow: two stresses at t = 10, known to seven digits.

    Chertkov and Oseledets, "Solution of the Fokker-Planck equation by cross approximation method in
    the tensor train format" (2021).
    """
    return ExpectationProblem(
        name,
        Equation(drift=dumbbell, diffusion=0.5, n_features=3),
        1.0,
        10.0,
        (10.0,),
        langevin_steps=2000,
        weak_order=2,
        functions=(shear_stress, normal_stress),
        expected=(1.0328125, 2.071143),
    )


def _half_growth(x, t):
    return 0.5 * math.exp(-t) * x


def _growing_noise(x, t):
    return 0.5 * math.exp(-t) * x.square()


@register("log-normal-10d")
def _log_normal(name):
    """dx = e^-t x dt / 2 + e^(-t/2) x dW (Ito), log x ~ N(0, Gamma) at first.

    Gamma: five of U(1, 1.1) and their reciprocals.
    """
    spread = np.random.RandomState(0).uniform(1.0, 1.1, 5)
    return LogNormalProblem(
        name,
        Equation(
            drift=_half_growth, diffusion=_growing_noise, n_features=10, support=(0.0, np.inf)
        ),
        1.0,
        1.0,
        (0.5, 1.0),
        langevin_steps=2000,
        variances=np.concatenate([spread, 1 / spread]),
    )


def turning_noise(x, t, root):
    """D = (B + t I) (B + t I)^T / 2."""
    sigma = torch.as_tensor(root).to(x) + t * torch.eye(len(root), dtype=x.dtype)
    return sigma @ sigma.T / 2


@register("turning-diffusion-50d", d=50)
def _turning(name, d):
    """dX = (B + t I) dW with a fixed random B; exactly Gaussian."""
    root = np.random.RandomState(0).randn(d, d) / math.sqrt(d)
    return GaussianProblem(
        name,
        Equation(diffusion=partial(turning_noise, root=root), n_features=d),
        1.0,
        1.0,
        (0.5, 1.0),
        weak_order=2,
    )


@register("barenblatt-3d", d=3)
@register("barenblatt-6d", d=6)
@register("barenblatt-10d", d=10)
def _barenblatt(name, d):
    """d rho/dt = Laplacian rho^2 from the law that was a point at t = -0.001.

    Its support is a ball; published symKL of d = 3 and 6 is 0.79 and 1.5.
    """
    return PorousProblem(
        name,
        Equation(porous=2.0, diffusion=1.0, n_features=d),
        1.0,
        0.025,
        (0.0025, 0.025),
        solution=Barenblatt(d),
    )
