"""The map T at one time as a torch module, for ``state_dict`` and other torch programs."""

from __future__ import annotations

import torch
from torch import Tensor

from .distribution import TransportedNormal
from .flows.base import Flow


class FlowModule(torch.nn.Module):
    """x = T(z) with the parameters theta as a buffer.

    Parameters
    ----------
    flow : Flow
    theta : Tensor (m,)
    d : int
        Dimension.
    """

    theta: Tensor

    def __init__(self, flow: Flow, theta: Tensor, d: int):
        super().__init__()
        self.flow, self.d = flow, d
        self.register_buffer("theta", theta.detach().clone())

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Latent points z (n, d) to points x (n, d), and log \\|det dT/dz\\| (n,)."""
        return self.flow.forward(self.theta, z)

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Points x (n, d) to latent points z (n, d), and log \\|det dz/dx\\| (n,)."""
        return self.flow.inverse(self.theta, x)

    def law(self) -> TransportedNormal:
        """The law of T(z), z from N(0, I)."""
        return TransportedNormal(self.flow, self.theta, self.d)
