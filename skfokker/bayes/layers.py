r"""Laws made of layers of conditional densities, and the points that they are fitted to.

A layer turns the coordinates and gives them conditional densities
(:class:`~skfokker.flows.ConditionalFlow`); what the layers before it have made of p is nearly
N(0, I).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from ..flows import ConditionalFlow

_LOG_2PI = math.log(2 * math.pi)
_SHARE = 0.1  # of the wider part of the base


@dataclass(frozen=True)
class Layer:
    """Coordinates z = turn^T u, and the law of z.

    Attributes
    ----------
    turn : Tensor (d, d)
        Orthogonal.
    flow : ConditionalFlow
    theta : Tensor (m,)
    """

    turn: Tensor
    flow: ConditionalFlow
    theta: Tensor

    def pull(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Points (n, d) towards N(0, I), and log |det| of that map (n,)."""
        return self.flow.inverse(self.theta, u @ self.turn)

    def push(self, x: Tensor) -> Tensor:
        """Points (n, d) back towards p."""
        return self.flow.forward(self.theta, x)[0] @ self.turn.T

    def shortened(self, share: float) -> Layer:
        """A layer closer to the identity, which is theta = 0."""
        return replace(self, theta=share * self.theta)


class LayeredLaw(Distribution):
    """A base through layers, then an affine map.

    The base is N(0, I) where there are no layers; otherwise a tenth of it is N(0, s^2 I) with
    s = 1 + 1 / sqrt(d), so that what layers get wrong in the tails does not end in a few large
    weights.

    Parameters
    ----------
    mean : Tensor (d,)
    root : Tensor (d, d)
        Lower triangular, of a positive diagonal.
    layers : sequence of Layer
        That next to the data first.
    """

    arg_constraints: dict = {}
    support = constraints.real_vector

    def __init__(self, mean: Tensor, root: Tensor, layers=()):
        self.affine_mean, self.root, self.layers = mean, root, tuple(layers)
        super().__init__(event_shape=mean.shape, validate_args=False)

    def sample(self, sample_shape=()):
        shape = torch.Size(sample_shape)
        d = len(self.affine_mean)
        x = torch.randn(*shape, d, dtype=torch.float64).reshape(-1, d)
        if self.layers:
            x[torch.rand(len(x)) < _SHARE] *= wide(d)
        u = push(self.layers, x)
        return (self.affine_mean + u @ self.root.T).reshape(*shape, d)

    def log_prob(self, value):
        flat = value.reshape(-1, value.shape[-1])
        u = torch.linalg.solve_triangular(self.root, (flat - self.affine_mean).T, upper=False).T
        total = torch.zeros_like(u[:, 0]) - self.root.diagonal().log().sum()
        with torch.no_grad():
            for layer in self.layers:
                u, log_det = layer.pull(u)
                total = total + log_det
        base = log_base(u) if self.layers else log_normal(u)
        return (total + base).reshape(value.shape[:-1])


def push(layers, x: Tensor) -> Tensor:
    """Normal points (n, d) through all layers."""
    with torch.no_grad():
        for layer in reversed(layers):
            x = layer.push(x)
    return x


def log_normal(x: Tensor) -> Tensor:
    """Log density of N(0, I) at x (n, d)."""
    return -0.5 * x.square().sum(1) - 0.5 * x.shape[1] * _LOG_2PI


def wide(d: int) -> float:
    """The standard deviation of the wider part of the base."""
    return 1 + 1 / math.sqrt(d)


def log_base(x: Tensor) -> Tensor:
    """Log density of the base under layers at x (n, d)."""
    d, narrow = x.shape[1], log_normal(x)
    broad = log_normal(x / wide(d)) - d * math.log(wide(d))
    return torch.logaddexp(math.log1p(-_SHARE) + narrow, math.log(_SHARE) + broad)


def base_points(x: Tensor) -> Tensor:
    """Points (n, d) of N(0, I) as those of the base under layers, in fixed proportions."""
    x = x.clone()
    x[:: round(1 / _SHARE)] *= wide(x.shape[1])
    return x


@dataclass(frozen=True)
class Cloud:
    """Points at which p is known, as the layers so far see them.

    Attributes
    ----------
    u : Tensor (n, d)
    log_p, slope : Tensor (n,), (n, d)
        The density that the layers have made of p, and the gradient of its logarithm, at u.
    log_det : Tensor (n,)
        Of all layers so far.
    log_laws : Tensor (n, k)
        Log densities of the laws that drew points, before any layer.
    counts : tuple of int
        How many points each law drew.
    """

    u: Tensor
    log_p: Tensor
    slope: Tensor
    log_det: Tensor
    log_laws: Tensor
    counts: tuple[int, ...]

    @classmethod
    def of(cls, u: Tensor, log_p: Tensor, slope: Tensor) -> Cloud:
        """Points that no layer has seen."""
        return cls(u, log_p, slope, torch.zeros_like(log_p), log_normal(u)[:, None], (len(u),))

    def through(self, layer: Layer) -> Cloud:
        """The same points as one more layer sees them; its law is added."""
        z = self.u @ layer.turn
        here = layer.flow.linearize(layer.theta, z, z)
        latent = torch.stack([points.latent[:, 0] for points in here.points], 1)
        log_det = -here.log_det
        slope = (self.slope @ layer.turn - here.score_z)[:, None]
        slope = torch.linalg.solve_triangular(here.by_z, slope, upper=False, left=False)[:, 0]
        total = self.log_det + log_det
        laws = torch.cat([self.log_laws, (log_base(latent) + total)[:, None]], 1)
        return Cloud(latent, self.log_p - log_det, slope, total, laws, self.counts)

    def joined(self, fresh: Cloud, keep: int) -> Cloud:
        """Together with points of the newest law, those of the ``keep`` newest laws alone."""
        counts = (*self.counts, len(fresh.u))
        dropped = counts[:-keep]
        known = self.log_laws.shape[1]
        laws = torch.cat([self.log_laws, fresh.log_laws[:, -known:]])

        def both(name: str) -> Tensor:
            return torch.cat([getattr(self, name), getattr(fresh, name)])[sum(dropped) :]

        return Cloud(
            both("u"),
            both("log_p"),
            both("slope"),
            both("log_det"),
            laws[sum(dropped) :, len(dropped) :],
            counts[-keep:],
        )

    @property
    def log_ratios(self) -> Tensor:
        """log p - log q (n,), q being the newest law."""
        return self.log_p + self.log_det - self.log_laws[:, -1]

    def weights(self) -> Tensor:
        """(p + q) / 2 over the density of all the points (n,), of sum 1; q the newest law.

        All laws that drew points count in that density, whichever drew the point (A. Owen and
        Y. Zhou, "Safe and effective importance sampling", 2000).
        """
        shares = torch.tensor(self.counts, dtype=torch.float64)
        log_m = torch.logsumexp(self.log_laws + (shares / shares.sum()).log(), 1)
        log_p, log_q = self.log_p + self.log_det, log_normal(self.u) + self.log_det
        log_z = torch.logsumexp(log_p - log_m, 0) - math.log(len(log_m))
        weights = (torch.logaddexp(log_p - log_z, log_q) - log_m).exp().clamp_max(40.0)
        return weights / weights.sum()
