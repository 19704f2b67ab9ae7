"""y = mean + root x with constants: the coordinates that a march was made in."""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor

from ..potentials.base import as_float64
from .base import Flow, Linearization
from .composition import Composition
from .support import SupportMap


class Frame(Flow):
    """A fixed affine map: no parameters.

    Parameters
    ----------
    mean : float or array-like (d,), default=0
    root : float or array-like (d, d), default=1
        Invertible; a number stands for a multiple of the identity.
    """

    def __init__(self, mean=0.0, root=1.0):
        self.mean = mean
        self.root = root

    def n_parameters(self, d):
        return 0

    def init(self, d, generator=None):
        return torch.zeros(0, dtype=torch.float64)

    def _constants(self, x):
        mean, root = as_float64(self.mean, "mean").to(x), as_float64(self.root, "root").to(x)
        return mean, root if root.ndim else root * torch.eye(x.shape[1]).to(x)

    def forward(self, theta, x):
        mean, root = self._constants(x)
        return mean + x @ root.T, log_abs_det(root).expand(len(x))

    def inverse(self, theta, y):
        mean, root = self._constants(y)
        return solve_root(root, y - mean), -log_abs_det(root).expand(len(y))

    def linearize(self, theta, x):
        return _FrameLinearization(self, theta, x)

    def to_x(self, y: Tensor) -> Tensor:
        """Points of the user x (n, d) of those of the march y (n, d)."""
        return self.forward(self.init(y.shape[1]), y)[0]

    def pull_back(self, y: Tensor, v: Tensor) -> Tensor:
        """root^{-1} v (n, d) of vectors v (n, d)."""
        return solve_root(self._constants(y)[1], v)


class _FrameLinearization(Linearization):
    def __init__(self, flow, theta, x):
        self.y, self.log_det = flow.forward(theta, x)
        self.root = flow._constants(x)[1]

    def grad_log_det(self):
        return torch.zeros_like(self.y)

    def solve(self, v):
        return solve_root(self.root, v)

    def solve_transposed(self, v):
        return solve_root(self.root.T, v.reshape(-1, v.shape[-1])).reshape(v.shape)

    def jvp(self, dtheta, dx=None):
        return torch.zeros_like(self.y) if dx is None else dx @ self.root.T

    def vjp(self, v):
        return v.new_zeros(0), v @ self.root

    def jacobian(self, left=None):
        if left is None:
            left = torch.eye(self.y.shape[1]).to(self.y).expand(len(self.y), -1, -1)
        return left.new_zeros(*left.shape[:2], 0), left @ self.root


def log_abs_det(root: Tensor) -> Tensor:
    r"""log \|det root\| of an invertible matrix (d, d)."""
    if _is_triangular(root):
        return root.diagonal().abs().log().sum()
    return torch.linalg.slogdet(root)[1]


def solve_root(root: Tensor, v: Tensor) -> Tensor:
    """Rows root^{-1} v of v (n, d), by substitution where root is triangular."""
    if _is_triangular(root):
        return torch.linalg.solve_triangular(root, v.T, upper=False).T
    if _is_triangular(root.T):
        return torch.linalg.solve_triangular(root, v.T, upper=True).T
    return torch.linalg.solve(root, v.T).T


def _is_triangular(root):
    return not root.triu(1).any()


def framed(flow: Flow, frame: Frame | None, support: SupportMap | None = None) -> Flow:
    """The flow, followed by the frame and by the map to where its coordinates live."""
    after = [chart for chart in (frame, support) if chart is not None]
    return Composition([flow, *after]) if after else flow


@overload
def split_frame(flow: Flow) -> tuple[Flow, Frame | None]: ...


@overload
def split_frame(flow: None) -> tuple[None, None]: ...


def split_frame(flow: Flow | None) -> tuple[Flow | None, Frame | None]:
    """The flow and the frame of :func:`framed`; None (code of a user's) has no frame."""
    layers = list(flow.layers) if isinstance(flow, Composition) else []
    bounded = bool(layers) and isinstance(layers[-1], SupportMap)
    if bounded:
        layers.pop()
    if len(layers) == 2 and isinstance(layers[1], Frame):
        return layers[0], layers[1]
    return (layers[0], None) if bounded else (flow, None)
