"""T = f_L o ... o f_1: layers after one another."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .base import Flow, Linearization


class Composition(Flow):
    """Layers applied in order, the first one to the reference points.

    Parameters
    ----------
    layers : sequence of Flow
        Their parameters stand in theta one after another. Layer i is reachable in
        ``get_params`` as ``i`` and its hyper-parameters as ``i__name``.
    """

    def __init__(self, layers: Sequence[Flow] = ()):
        self.layers = layers

    def get_params(self, deep=True):
        params = super().get_params(deep=False)
        if deep and isinstance(self.layers, list | tuple):
            for i, layer in enumerate(self.layers):
                params[str(i)] = layer
                if not hasattr(layer, "get_params"):
                    continue
                for name, value in layer.get_params().items():
                    params[f"{i}__{name}"] = value
        return params

    def set_params(self, **params):
        for name in [name for name in params if name.isdigit()]:
            layers = list(self.layers)
            layers[int(name)] = params.pop(name)
            self.layers = layers
        return super().set_params(**params)

    @property
    def separable(self):
        return all(layer.separable for layer in self.layers)

    @property
    def placed(self):
        return any(layer.placed for layer in self.layers)

    @property
    def affine(self):
        return all(layer.affine for layer in self.layers)

    @property
    def moves_otherwise(self):
        # only the first layer is fed the reference, whose law its own velocity is made for
        return bool(self.layers) and self.layers[0].moves_otherwise

    def starts_at_identity(self, d):
        return all(layer.starts_at_identity(d) for layer in self.layers)

    def n_parameters(self, d):
        return sum(layer.n_parameters(d) for layer in self.layers)

    def coordinate_index(self, d):
        offsets = self._offsets(d)
        pairs = zip(self.layers, offsets, strict=True)
        return torch.cat([layer.coordinate_index(d) + start for layer, start in pairs], 1)

    def _offsets(self, d):
        starts = [0]
        for layer in self.layers:
            starts.append(starts[-1] + layer.n_parameters(d))
        return starts[:-1]

    def split(self, theta, d):
        """Views of theta, one a layer."""
        return theta.split([layer.n_parameters(d) for layer in self.layers])

    def init(self, d, generator=None):
        return torch.cat([layer.init(d, generator) for layer in self.layers])

    def forward(self, theta, x):
        total = torch.zeros_like(x[:, 0])
        for layer, part in zip(self.layers, self.split(theta, x.shape[1]), strict=True):
            x, log_det = layer.forward(part, x)
            total = total + log_det
        return x, total

    def inverse(self, theta, y):
        total = torch.zeros_like(y[:, 0])
        parts = self.split(theta, y.shape[1])
        for layer, part in zip(reversed(self.layers), reversed(parts), strict=True):
            y, log_det = layer.inverse(part, y)
            total = total + log_det
        return y, total

    def linearize(self, theta, x):
        return _CompositionLinearization(self, theta, x)

    def law_velocity(self, theta, dtheta, y):
        if not self.moves_otherwise:
            return super().law_velocity(theta, dtheta, y)
        d = y.shape[1]
        first, *outer = zip(self.layers, self.split(theta, d), self.split(dtheta, d), strict=True)
        images = []
        for layer, part, _ in reversed(outer):
            y = layer.inverse(part, y)[0]
            images.append(y)
        layer, part, dpart = first
        v = layer.law_velocity(part, dpart, y)
        for (layer, part, dpart), x in zip(outer, reversed(images), strict=True):
            v = layer.linearize(part, x).jvp(dpart, v)
        return v

    def with_affine(self, theta, mean, scale):
        *first, last = self.split(theta, len(mean))
        last = self.layers[-1].with_affine(last, mean, scale)
        return None if last is None else torch.cat([*first, last])


class _CompositionLinearization(Linearization):
    def __init__(self, flow, theta, x):
        self.layers, self.log_det = [], torch.zeros_like(x[:, 0])
        self.sizes = [layer.n_parameters(x.shape[1]) for layer in flow.layers]
        for layer, part in zip(flow.layers, theta.split(self.sizes), strict=True):
            self.layers.append(layer.linearize(part, x))
            x = self.layers[-1].y
            self.log_det = self.log_det + self.layers[-1].log_det
        self.y = x

    def push_score(self, score):
        for layer in self.layers:
            score = layer.push_score(score)
        return score

    def grad_log_det(self):
        total = None
        for layer in reversed(self.layers):
            gradient = layer.grad_log_det()
            total = gradient if total is None else gradient + layer.vjp(total)[1]
        return total

    def solve(self, v):
        for layer in reversed(self.layers):
            v = layer.solve(v)
        return v

    def solve_transposed(self, v):
        for layer in self.layers:
            v = layer.solve_transposed(v)
        return v

    def jvp(self, dtheta, dx=None):
        for layer, part in zip(self.layers, dtheta.split(self.sizes), strict=True):
            dx = layer.jvp(part, dx)
        return dx

    def vjp(self, v):
        parts = []
        for layer in reversed(self.layers):
            part, v = layer.vjp(v)
            parts.append(part)
        return torch.cat(parts[::-1]), v

    def jacobian(self, left=None):
        parts = []
        for layer in reversed(self.layers):
            part, left = layer.jacobian(left)
            parts.append(part)
        return torch.cat(parts[::-1], 2), left

    # the law that the first layer makes of the reference is carried on by all others

    def law_velocity(self, dtheta):
        first, *outer = zip(self.layers, dtheta.split(self.sizes), strict=True)
        v = first[0].law_velocity(first[1])
        for layer, part in outer:
            v = layer.jvp(part, v)
        return v

    def law_pull_back(self, v):
        parts = []
        for layer in reversed(self.layers[1:]):
            part, v = layer.vjp(v)
            parts.append(part)
        return torch.cat([self.layers[0].law_pull_back(v), *parts[::-1]])

    def law_jacobian(self, left=None):
        parts = []
        for layer in reversed(self.layers[1:]):
            part, left = layer.jacobian(left)
            parts.append(part)
        return torch.cat([self.layers[0].law_jacobian(left), *parts[::-1]], 2)

    def coordinate_jacobian(self):
        parts, slope = [], 1.0
        for layer in reversed(self.layers):
            parts.append(slope * layer.coordinate_jacobian())
            slope = slope * layer.coordinate_slope()[..., None]
        return torch.cat(parts[::-1], 2)

    def coordinate_slope(self):
        slope = torch.ones_like(self.y)
        for layer in self.layers:
            slope = slope * layer.coordinate_slope()
        return slope

    def coordinate_moments(self, weights, columns):
        # the layer of most parameters in its own way, the others as columns beside it
        layers, slope, slopes = self.layers, torch.ones_like(weights), []
        for layer in reversed(layers):
            slopes.insert(0, slope)
            slope = slope * layer.coordinate_slope()
        largest = max(range(len(layers)), key=lambda i: self.sizes[i])
        others = [i for i in range(len(layers)) if i != largest]
        parts = [slopes[i][..., None] * layers[i].coordinate_jacobian() for i in others]
        beside = torch.cat([*parts, columns], 2)
        slope, e = slopes[largest], columns.shape[2]
        own, cross = layers[largest].coordinate_moments(
            weights * slope.square(), beside / slope[..., None]
        )
        q, weighted = beside.shape[2] - e, beside * weights[..., None]
        rest = weighted[..., :q].permute(1, 2, 0) @ beside.transpose(0, 1)
        across, right = cross[:, :, :q], torch.cat([cross[:, :, q:], rest[:, :, q:]], 1)
        gram = torch.cat(
            [torch.cat([own, across], 2), torch.cat([across.mT, rest[:, :, :q]], 2)], 1
        )
        # back in the order of the layers
        before = sum(parts[k].shape[2] for k, i in enumerate(others) if i < largest)
        p = own.shape[1]
        order = torch.cat(
            [p + torch.arange(before), torch.arange(p), p + torch.arange(before, q)]
        ).to(gram.device)
        return gram[:, order][:, :, order], right[:, order]
