"""Layer after layer, until the weights are good: points, a fit to all of them, new points."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..schemes.points import sobol_normal
from .calls import BudgetSpent, Counted
from .layer_choice import choose_layer
from .layer_fit import fit_layer
from .layers import Cloud, Layer, base_points, push
from .psis import psis

GOOD_SHARE, GOOD_K = 0.9, 0.5  # ESS / n and Pareto k at which a fit is good enough
_KEPT = 4  # laws whose points count
_PATIENCE = 4  # rounds without gain
_LARGEST = 250  # parameters of a layer


@dataclass(frozen=True)
class Round:
    """What the points of one round said of the law that drew them.

    Attributes
    ----------
    n_layers : int
    n_points : int
    share : float
        ESS / n of the raw weights.
    k : float
        Pareto k.
    gap : float
        log of the mean ratio minus the mean log ratio: KL(q | p), as far as the points see it.
    """

    n_layers: int
    n_points: int
    share: float
    k: float
    gap: float

    @classmethod
    def of(cls, log_ratios: Tensor, n_layers: int) -> Round:
        n = len(log_ratios)
        raw = log_ratios - log_ratios.max()
        weights = raw.exp()
        share = float(weights.mean().square() / weights.square().mean())
        gap = float(torch.logsumexp(log_ratios, 0)) - math.log(n) - float(log_ratios.mean())
        return cls(n_layers, n, share, psis(log_ratios.numpy())[1], gap)

    @property
    def good(self) -> bool:
        """Whether nothing more has to be fitted."""
        return self.share > GOOD_SHARE and self.k < GOOD_K

    @property
    def loss(self) -> float:
        """What is left to gain: the smaller the better."""
        return (1 - self.share) + max(self.k - GOOD_K, 0.0)

    def worse(self, other: Round) -> bool:
        """Whether the last layer did harm."""
        return self.share < 0.7 * other.share


def fit_layers(
    potential, calls: Counted, d: int, seed: int, *, n_points: int | None = None, n_rounds: int = 16
) -> tuple[list[Layer], list[Round]]:
    """Layers of a law close to exp(-V), starting from N(0, I).

    Every round draws points from the law so far and asks for V and its gradient there. These judge
    the law (ESS / n, Pareto k), and together with the points of the last rounds they fit the next
    layer. A layer that does harm is halved.

    Parameters
    ----------
    potential : Potential
        Finite everywhere.
    calls : Counted
        Says when to stop.
    d : int
    seed : int
    n_points : int, optional
        Of the first round; later ones take up to three times as many.
    n_rounds : int

    Returns
    -------
    layers : list of Layer
        Those of the best round.
    rounds : list of Round
    """
    n = n_points or int(min(max(512, 24 * d), 1536))
    layers: list[Layer] = []
    rounds: list[Round] = []
    best: tuple[float, list[Layer]] = (math.inf, layers)
    cloud: Cloud | None = None
    before: tuple[Cloud, Round] | None = None  # without the newest layer
    halvings, since = 0, 0
    try:
        for number in range(n_rounds):
            fresh = _points(potential, layers, n, d, seed + number)
            here = Round.of(fresh.log_ratios, len(layers))
            rounds.append(here)
            if here.loss < best[0]:
                since = since if here.loss > 0.9 * best[0] else -1
                best = here.loss, list(layers)
            since += 1
            if here.good or since > _PATIENCE:
                break
            calls.check()
            if before is not None and here.worse(before[1]) and halvings < 3:
                layers[-1] = layers[-1].shortened(0.5)
                cloud, halvings = before[0].through(layers[-1]), halvings + 1
                continue
            halvings = 0
            cloud = fresh if cloud is None else cloud.joined(fresh, _KEPT)
            layer = _next_layer(cloud, d)
            if layer is None:
                break
            before = cloud, here
            layers.append(layer)
            cloud = cloud.through(layer)
            n = min(int(1.25 * n), 2048)
    except BudgetSpent:
        pass
    return best[1], rounds


def _points(potential, layers: list[Layer], n: int, d: int, seed: int) -> Cloud:
    """n points of the law of the layers, with log p and its gradient."""
    x = sobol_normal(n, d, seed)
    u = push(layers, base_points(x) if layers else x)
    value, gradient = potential.value_and_grad(u)
    cloud = Cloud.of(u, -value.detach(), -gradient.detach())
    for layer in layers:
        cloud = cloud.through(layer)
    return cloud


def _next_layer(cloud: Cloud, d: int) -> Layer | None:
    """A layer that brings the law closer to p; None where none is seen to."""
    weights = cloud.weights()
    budget = int(min(_LARGEST, len(weights) * (1 + d) / 8))
    chosen = choose_layer(cloud.u, cloud.slope + cloud.u, weights, budget)
    if chosen is None:
        return None
    turn, flow = chosen
    theta = fit_layer(flow, cloud.u @ turn, cloud.log_p, cloud.slope @ turn, weights)
    return Layer(turn, flow, theta) if theta.any() else None
