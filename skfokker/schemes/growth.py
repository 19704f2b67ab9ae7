"""A family that grows: layers held in reserve until the residual asks for them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..flows.base import Flow
from ..flows.composition import Composition


class Growing:
    """The awake layers of a composition, and where their parameters stand in all of theta.

    Layers marked ``reserve`` and still the identity stay outside the march: they cost nothing
    until they are woken, two at a time (one triangular layer in each order).

    Parameters
    ----------
    flow : Flow
        Any flow; only compositions can hold a reserve.
    theta : Tensor (m,)
        All parameters.
    d : int
        Dimension.
    """

    def __init__(self, flow: Flow, theta: Tensor, d: int):
        self.flow, self.theta, self.d = flow, theta.clone(), d
        self.asleep: list[int] = []
        if isinstance(flow, Composition):
            parts = flow.split(theta, d)
            self.asleep = [
                i
                for i, layer in enumerate(flow.layers)
                if layer.reserve and layer.is_dormant(parts[i], d)
            ]

    @property
    def awake(self) -> Flow:
        """The map without its sleeping layers."""
        if not self.asleep:
            return self.flow
        layers = [layer for i, layer in enumerate(self.flow.layers) if i not in self.asleep]
        return Composition(layers)

    @property
    def index(self) -> Tensor:
        """Entries of theta that belong to the awake layers."""
        if not self.asleep:
            return torch.arange(len(self.theta), device=self.theta.device)
        parts = self.flow.split(torch.arange(len(self.theta), device=self.theta.device), self.d)
        return torch.cat([part for i, part in enumerate(parts) if i not in self.asleep])

    def active(self) -> Tensor:
        """Parameters of the awake layers."""
        return self.theta[self.index]

    def embed(self, active: Tensor) -> Tensor:
        """All of theta, the awake layers' part replaced; what is found there later starts here."""
        self.theta = self.theta.clone()
        self.theta[self.index] = active
        return self.theta

    def embed_velocity(self, active: Tensor) -> Tensor:
        """All of theta', zero for the layers asleep."""
        velocity = torch.zeros_like(self.theta)
        velocity[self.index] = active
        return velocity

    def wake(self, n_layers: int = 2) -> None:
        """Let the next layers take part; they still are the identity."""
        self.asleep = self.asleep[n_layers:]
