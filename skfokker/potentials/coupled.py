"""Potentials whose coordinates interact, and products of small ones behind a rotation."""

from __future__ import annotations

import math

import torch

from .base import Potential, as_dimension, as_float64


class CoupledQuartic(Potential):
    """V = x_1^4 + x_2^4 + coupling x_1 x_2, in two dimensions.

    Parameters
    ----------
    coupling : float
        Of the two coordinates.
    """

    n_features_in_ = 2

    def __init__(self, coupling: float = 1.0):
        self.coupling = coupling

    def __call__(self, x):
        return x.square().square().sum(1) + self.coupling * x[:, 0] * x[:, 1]

    def value_and_grad(self, x):
        return self(x), 4 * x**3 + self.coupling * x.flip(1)


class GinzburgLandauChain(Potential):
    """V = sum_i (x_i^2 - 1)^2 / (4 width) + stiffness sum_{i<d} (x_i - x_{i+1})^2 / 2.

    A discretised Ginzburg-Landau energy on an open chain: every site has wells at -1 and 1, a
    spring ties it to its neighbours. X. Tang and L. Ying, "Solving high-dimensional Fokker-Planck
    equation with functional hierarchical tensor" (2023), solve such models by tensor networks.

    Parameters
    ----------
    d : int
        Number of sites, at least 2.
    width : float
        The barrier of a site alone is 1 / (4 width).
    stiffness : float
        Of the springs; two neighbours in opposite wells cost 2 stiffness.
    """

    def __init__(self, d: int, width: float = 1 / 6, stiffness: float = 1.0):
        self.d = d
        self.width = width
        self.stiffness = stiffness

    @property
    def n_features_in_(self) -> int:
        if as_dimension(self.d) < 2:
            raise ValueError(f"d must be at least 2 for a chain, got {self.d!r}")
        return int(self.d)

    def __call__(self, x):
        wells = (x.square() - 1).square().sum(1) / (4 * self.width)
        return wells + 0.5 * self.stiffness * x.diff(dim=1).square().sum(1)

    def value_and_grad(self, x):
        pull = self.stiffness * x.diff(dim=1)
        springs = torch.nn.functional.pad(pull, (1, 0)) - torch.nn.functional.pad(pull, (0, 1))
        return self(x), (x.square() - 1) * x / self.width + springs


class Rings(Potential):
    """V = height sum over pairs of (x_1^2 + x_2^2 - 1)^2: every pair on its own unit circle.

    Pairs are coordinates (0, 1), (2, 3), ... . P. Mandal and A. Apte, "Learning zeros of
    Fokker-Planck operators" (2023), use it at height 1 in 2 to 10 dimensions, with the drift
    -4 x (|x|^2 - 1).

    Parameters
    ----------
    d : int
        Dimension, even.
    height : float
        V at the centre of a ring above the ring.
    """

    def __init__(self, d: int = 10, height: float = 1.0):
        self.d = d
        self.height = height

    @property
    def n_features_in_(self) -> int:
        if as_dimension(self.d) % 2:
            raise ValueError(f"d must be even for Rings, got {self.d!r}")
        return int(self.d)

    @property
    def log_normalizer(self) -> float:
        # in s = |x|^2: pi int_0^inf exp(-height (s - 1)^2) ds
        root = math.sqrt(self.height)
        pair = 0.5 * math.pi**1.5 / root * (1 + math.erf(root))
        return self.n_features_in_ // 2 * math.log(pair)

    @staticmethod
    def _beyond(x):
        """|pair|^2 - 1 of every pair (n, d / 2)."""
        return x.square().unflatten(1, (-1, 2)).sum(2) - 1

    def __call__(self, x):
        return self.height * self._beyond(x).square().sum(1)

    def value_and_grad(self, x):
        beyond = self._beyond(x)
        slope = 4 * self.height * x * beyond.repeat_interleave(2, dim=1)
        return self.height * beyond.square().sum(1), slope


class WellsAndSprings(Potential):
    """V = sum_i heights_i ((x_i / widths_i)^2 - 1)^2 + sum_j stiffness_j x_{m+j}^2 / 2.

    Double wells along the first m coordinates, springs along the others: a sum over
    coordinates, meant to be put behind a rotation (:class:`Rotated`).

    Parameters
    ----------
    heights : array-like (m,)
        Barriers between the wells, in the units of beta.
    widths : array-like (m,)
        Half the distances between the wells.
    stiffness : array-like (k,)
        Of the springs.
    """

    def __init__(self, heights=(2.0, 1.0), widths=(1.0, 1.5), stiffness=(1.0,)):
        self.heights = heights
        self.widths = widths
        self.stiffness = stiffness

    @property
    def n_features_in_(self) -> int:
        return len(self.heights) + len(self.stiffness)

    def _prepare(self):
        names = "heights", "widths", "stiffness"
        heights, widths, stiffness = (as_float64(getattr(self, name), name) for name in names)
        if heights.ndim != 1 or heights.shape != widths.shape or stiffness.ndim != 1:
            raise ValueError(
                f"heights and widths must have one entry a well and stiffness one a spring, got "
                f"shapes {tuple(heights.shape)}, {tuple(widths.shape)}, {tuple(stiffness.shape)}"
            )
        return heights, widths, stiffness

    def __call__(self, x):
        return self.value_and_grad(x)[0]

    def value_and_grad(self, x):
        heights, widths, stiffness = self._constants(x)
        wells, springs = x[:, : len(heights)], x[:, len(heights) :]
        bend = (wells / widths).square() - 1
        pull = stiffness * springs
        value = (heights * bend.square()).sum(1) + 0.5 * (pull * springs).sum(1)
        return value, torch.cat([4 * heights / widths.square() * bend * wells, pull], 1)


class ThreeHoles(Potential):
    """Two deep wells and a shallow one around a hill, in two dimensions.

    V = 3 exp(-x^2 - (y - 1/3)^2) - 3 exp(-x^2 - (y - 5/3)^2) - 5 exp(-(x - 1)^2 - y^2)
    - 5 exp(-(x + 1)^2 - y^2) + x^4 / 5 + (y - 1/3)^4 / 5, times ``scale``.

    P. Metzner, C. Schuette and E. Vanden-Eijnden, "Illustration of transition path theory on a
    collection of simple examples", Journal of Chemical Physics 125 (2006).

    Parameters
    ----------
    scale : float
        1 where published.
    """

    n_features_in_ = 2

    def __init__(self, scale: float = 1.0):
        self.scale = scale

    def _prepare(self):
        centres = [[0.0, 1 / 3], [0.0, 5 / 3], [1.0, 0.0], [-1.0, 0.0]]
        heights = [3.0, -3.0, -5.0, -5.0]
        return as_float64(centres, "centres"), as_float64(heights, "heights")

    def __call__(self, x):
        return self.value_and_grad(x)[0]

    def value_and_grad(self, x):
        centres, heights = self._constants(x)
        gap = x[:, None, :] - centres
        bumps = heights * torch.exp(-gap.square().sum(2))
        far = x - centres[0]
        value = bumps.sum(1) + 0.2 * far.square().square().sum(1)
        gradient = -2 * (bumps[:, :, None] * gap).sum(1) + 0.8 * far**3
        return self.scale * value, self.scale * gradient


class Rotated(Potential):
    """V(x) = potential(rotation^T x): columns of the rotation are the axes of ``potential``.

    Parameters
    ----------
    potential : Potential
        Of d coordinates z = rotation^T x.
    rotation : array-like (d, d)
        Orthogonal.
    """

    def __init__(self, potential: Potential, rotation):
        self.potential = potential
        self.rotation = rotation

    @property
    def n_features_in_(self) -> int:
        return int(as_float64(self.rotation, "rotation").shape[0])

    @property
    def log_normalizer(self) -> float:
        return self.potential.log_normalizer

    def _prepare(self):
        rotation = as_float64(self.rotation, "rotation")
        eye = torch.eye(len(rotation), dtype=torch.float64)
        if rotation.shape != eye.shape or not torch.allclose(rotation @ rotation.T, eye):
            raise ValueError(
                f"rotation must be an orthogonal matrix (d, d), got one of shape "
                f"{tuple(rotation.shape)} that is not"
            )
        return (rotation,)

    def __call__(self, x):
        (rotation,) = self._constants(x)
        return self.potential(x @ rotation)

    def value_and_grad(self, x):
        (rotation,) = self._constants(x)
        value, gradient = self.potential.value_and_grad(x @ rotation)
        return value, gradient @ rotation.T
