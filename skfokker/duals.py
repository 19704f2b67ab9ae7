"""The dual potential phi of (45): a small network, its gradient field, and the inner loss."""

from __future__ import annotations

import math

import torch
from sklearn.base import BaseEstimator
from torch import Tensor
from torch.nn.functional import softplus

_ACTIVATIONS = ("relu", "softplus", "tanh")


class NetworkDual(BaseEstimator):
    r"""A fully connected network :math:`\varphi : R^d \to R`, as pure functions of (psi, x).

    The inner problem of Algorithm 1 fits its gradient field to displacements,

    .. math:: \min_\psi E |\nabla \varphi_\psi(Y) - v(Y)|^2   \qquad (64),

    so what counts is :math:`\nabla \varphi` and the derivative of that loss in psi. Both are
    written out: for ReLU, :math:`\nabla \varphi = W_1^T D_1 W_2^T D_2 \cdots` with masks D that do
    not differentiate, and a step is a chain of small products (0.5 ms for a thousand points in
    the plane, single precision; 10 ms by automatic differentiation). The same masks leave the
    biases without gradient: the kinks of a ReLU network move with W only, and *where it starts
    is where it can bend*. Points are best centred and scaled first.

    Parameters
    ----------
    n_layers : int, default=6
        Number of linear layers, at least 2.
    width : int, default=20
        Units of every hidden layer.
    activation : {"relu", "softplus", "tanh"}, default="relu"
        The paper's, or a smooth one: its gradient field is smooth too, a step costs about twice
        as much, and the biases learn.
    quadratic : bool, default=False
        Add :math:`c \cdot x + x^T B x / 2` to the network: affine velocity fields (a quadratic
        potential and a Gaussian law) are then within the dual family.
    initial : float or "fan_in", default="fan_in"
        A number r draws every weight and bias from U(-r, r) (the authors' program: 0.1).
        "fan_in" keeps the size of signals from layer to layer, spreads the kinks of the
        first layer over the bulk of N(0, I), and starts from a gradient of size 1 or so.
    single : bool, default=True
        Compute in float32. The Adam noise is far above its rounding, and it is twice as fast.
    """

    def __init__(
        self,
        n_layers: int = 6,
        width: int = 20,
        activation: str = "relu",
        quadratic: bool = False,
        initial: float | str = "fan_in",
        single: bool = True,
    ):
        self.n_layers = n_layers
        self.width = width
        self.activation = activation
        self.quadratic = quadratic
        self.initial = initial
        self.single = single

    def _shapes(self, d: int) -> list[tuple[int, ...]]:
        """Weights and biases in the order of psi; the last bias is that of no consequence."""
        sizes = [d] + [self.width] * (self.n_layers - 1)
        shapes: list[tuple[int, ...]] = []
        for fan_in, fan_out in zip(sizes[:-1], sizes[1:], strict=True):
            shapes += [(fan_out, fan_in), (fan_out, 1)]
        shapes += [(self.width, 1), (1,)]
        return shapes + [(d, d), (d, 1)] if self.quadratic else shapes

    def n_parameters(self, d: int) -> int:
        """Length of ``psi`` in dimension d."""
        return sum(math.prod(shape) for shape in self._shapes(d))

    def init(self, d: int, generator: torch.Generator | None = None) -> Tensor:
        """Random parameters (n_parameters(d),); the quadratic part starts at zero.

        Raises
        ------
        ValueError
            Where ``activation``, ``n_layers`` or ``initial`` is not one of those offered.
        """
        if self.activation not in _ACTIVATIONS:
            raise ValueError(f"activation must be one of {_ACTIVATIONS}, got {self.activation!r}")
        if self.n_layers < 2:
            raise ValueError(f"n_layers must be at least 2, got {self.n_layers!r}")
        if isinstance(self.initial, str) and self.initial != "fan_in":
            raise ValueError(f'initial must be a number or "fan_in", got {self.initial!r}')
        dtype = torch.float32 if self.single else torch.float64
        psi = torch.empty(self.n_parameters(d), dtype=dtype)
        tensors = _split(psi, self._shapes(d))
        for i, tensor in enumerate(tensors):
            if i >= 2 * self.n_layers:
                tensor.zero_()
            elif not isinstance(self.initial, str):
                tensor.uniform_(-self.initial, self.initial, generator=generator)
            elif i % 2 == 0:  # weights; those of the last layer are a column
                fan_in = tensor.shape[1] if i < 2 * self.n_layers - 2 else self.width
                gain = 2.0 if self.activation == "relu" and 0 < i else 1.0
                tensor.normal_(0, math.sqrt(gain / fan_in), generator=generator)
            else:
                tensor.normal_(0, 1.0 if i == 1 else 0.3, generator=generator)
        return psi

    def bind(self, psi: Tensor, d: int) -> BoundDual:
        """The network at the parameters psi, *sharing* them: to follow an iteration in place."""
        return BoundDual(self, psi, d)

    def value(self, psi: Tensor, x: Tensor) -> Tensor:
        """phi (n,) at the points x (n, d); differentiable in both."""
        return self.bind(psi, x.shape[1]).value(x)

    def gradient(self, psi: Tensor, x: Tensor) -> Tensor:
        """grad phi (n, d) at the points x (n, d), carrying no graph."""
        return self.bind(psi, x.shape[1]).gradient(x.T.to(psi.dtype)).T.to(x.dtype)

    def loss_gradient(self, psi: Tensor, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The inner loss mean |grad phi(x) - v|^2, a scalar, and its gradient in psi."""
        bound = self.bind(psi, x.shape[1])
        loss = bound.descend(x.T.to(psi.dtype).contiguous(), v.T.to(psi.dtype).contiguous())
        return loss, bound.slope


class BoundDual:
    """A dual tied to one parameter vector. Points are columns here, (d, n): it is faster.

    Attributes
    ----------
    psi : Tensor
        The parameters, shared with whoever gave them.
    slope : Tensor
        The derivative of the last loss in psi; a buffer, overwritten by :meth:`descend`.
    """

    def __init__(self, dual: NetworkDual, psi: Tensor, d: int):
        self.dual, self.psi, self.slope = dual, psi, torch.zeros_like(psi)
        shapes = dual._shapes(d)
        tensors, slopes = _split(psi, shapes), _split(self.slope, shapes)
        last = 2 * dual.n_layers - 2
        self.weights, self.biases, self.head = tensors[:last:2], tensors[1:last:2], tensors[last]
        self.weight_slopes, self.bias_slopes = slopes[:last:2], slopes[1:last:2]
        self.head_slope = slopes[last]
        self.constant = tensors[last + 1]
        self.tail, self.tail_slopes = tensors[last + 2 :], slopes[last + 2 :]

    def value(self, x: Tensor) -> Tensor:
        """phi (n,) at points in rows (n, d); differentiable."""
        columns = x.T
        h = columns
        for weight, bias in zip(self.weights, self.biases, strict=True):
            h = _activate(self.dual.activation, weight @ h + bias)
        phi = (self.head * h).sum(0) + self.constant
        if self.tail:
            phi = phi + (columns * (self.tail[1] + self.tail[0] @ columns / 2)).sum(0)
        return phi

    @torch.no_grad()
    def gradient(self, x: Tensor) -> Tensor:
        """grad phi (d, n) at points in columns (d, n)."""
        return self._walk(x)[0]

    @torch.no_grad()
    def descend(self, x: Tensor, v: Tensor) -> Tensor:
        """The loss mean |grad phi(x) - v|^2 at columns (d, n); leaves its slope in ``slope``."""
        field, hidden, bends, tangents, slopes = self._walk(x, curved=True)
        error = field.sub_(v)
        loss = error.square().sum() / x.shape[1]
        back = error.mul_(2 / x.shape[1])
        if self.tail_slopes:
            outer = back @ x.T
            torch.add(outer, outer.T, out=self.tail_slopes[0]).mul_(0.5)
            torch.sum(back, 1, keepdim=True, out=self.tail_slopes[1])
        # Down the chain r_l = D_l g_l, g_{l-1} = W_l^T r_l, from the field back to the head.
        smooth, curvatures = self.dual.activation != "relu", []
        for layer, weight in enumerate(self.weights):
            torch.mm(tangents[layer], back.T, out=self.weight_slopes[layer])
            back = weight @ back
            if smooth:
                curvatures.append(back * slopes[layer] * bends[layer])
            back = _mask(self.dual.activation, back, hidden[layer], bends[layer])
        torch.sum(back, 1, keepdim=True, out=self.head_slope)
        if smooth:  # D_l depends on the weights below: up the network once more
            back = None
            for layer in reversed(range(len(self.weights))):
                z = curvatures[layer] if back is None else curvatures[layer] + back * bends[layer]
                self.weight_slopes[layer].addmm_(z, (hidden[layer - 1] if layer else x).T)
                torch.sum(z, 1, keepdim=True, out=self.bias_slopes[layer])
                back = self.weights[layer].T @ z
        return loss

    def _walk(self, x, curved=False):
        """The field, and by layer: activations, their derivatives, masked and plain cotangents.

        Where ``curved`` and the activation is smooth, the plain cotangents come multiplied by
        sigma''/sigma', which is what the loss needs.
        """
        kind, hidden, bends, h = self.dual.activation, [], [], x
        for weight, bias in zip(self.weights, self.biases, strict=True):
            h = torch.addmm(bias, weight, h)
            if kind == "relu":
                bends.append(None)
                h = h.relu_()
            elif kind == "tanh":
                h = h.tanh_()
                bends.append(1 - h * h)
            else:
                bends.append(torch.sigmoid(h))
                h = softplus(h)
            hidden.append(h)
        g, tangents, slopes = self.head.expand_as(h), [None] * len(hidden), [None] * len(hidden)
        for layer in reversed(range(len(hidden))):
            if curved and kind != "relu":
                ratio = -2 * hidden[layer] if kind == "tanh" else 1 - bends[layer]
                slopes[layer] = g * ratio
            tangents[layer] = _mask(kind, g, hidden[layer], bends[layer])
            g = self.weights[layer].T @ tangents[layer]
        if self.tail:
            matrix, vector = self.tail
            g = g + vector + (matrix + matrix.T) @ x / 2
        return g, hidden, bends, tangents, slopes


def _split(flat: Tensor, shapes) -> list[Tensor]:
    """Views into one vector."""
    pieces = flat.split([math.prod(shape) for shape in shapes])
    return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def _activate(kind: str, z: Tensor) -> Tensor:
    return {"relu": torch.relu, "tanh": torch.tanh, "softplus": softplus}[kind](z)


def _mask(kind: str, g: Tensor, h: Tensor, bend: Tensor | None) -> Tensor:
    """sigma'(z) g, given h = sigma(z)."""
    return torch.ops.aten.threshold_backward(g, h, 0) if bend is None else g * bend
