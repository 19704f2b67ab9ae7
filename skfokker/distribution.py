"""The law T_theta # N(0, I) at fixed parameters: draws, density, score, velocity."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from .equation import log_normal
from .flows.base import Flow

_CHUNK = 2**24  # numbers a chunk may hold in one intermediate array (128 MiB of float64)


def chunk_rows(flow: Flow, d: int) -> int:
    """Points to push through ``flow`` at a time so that memory stays bounded.

    The intermediate arrays of a flow hold at most about d + m numbers a point (m parameters),
    and d times that where derivatives come from automatic differentiation.
    """
    width = flow.numbers_per_point(d)
    if type(flow).linearize is Flow.linearize:
        width *= d
    return max(64, min(2**16, _CHUNK // width))


class TransportedNormal(Distribution):
    r"""The pushforward :math:`T_\theta \# N(0, I_d)` as a torch distribution.

    Work on many points is done in chunks, so that memory stays bounded by the result.

    Parameters
    ----------
    flow : Flow
        The family of maps.
    theta : Tensor (m,)
        Its parameters.
    d : int
        Dimension.

    Notes
    -----
    ``rsample`` and ``log_prob`` are differentiable in theta and in the points, once. The inverse
    map need not be: with z = T^{-1}(x) and s the score at x, the implicit function theorem gives
    d log rho(x)/d theta = -(dT/dtheta(z))^T s - d log \|det dT/dx\|(z)/dtheta.

    Examples
    --------
    >>> import torch
    >>> from skfokker.distribution import TransportedNormal
    >>> from skfokker.flows.affine import AffineFlow
    >>> law = TransportedNormal(AffineFlow(), AffineFlow().init(2), d=2)
    >>> law.log_prob(torch.zeros(1, 2, dtype=torch.float64))
    tensor([-1.8379], dtype=torch.float64)
    """

    arg_constraints: dict = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, flow: Flow, theta: Tensor, d: int):
        self.flow, self.theta = flow, theta
        super().__init__(event_shape=torch.Size([d]), validate_args=False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.flow!r}, d={self.event_shape[0]})"

    def expand(self, batch_shape, _instance=None):
        if torch.Size(batch_shape):
            raise NotImplementedError("TransportedNormal has one theta and so no batch shape.")
        return self

    def _by_chunks(self, work: Callable[..., Tensor], *points: Tensor) -> Tensor:
        rows = chunk_rows(self.flow, self.event_shape[0])
        if len(points[0]) <= rows:
            return work(*points)
        pieces = zip(*(p.split(rows) for p in points), strict=True)
        first = work(*next(pieces))
        out = first.new_empty(len(points[0]), *first.shape[1:])
        out[: len(first)] = first
        start = len(first)
        for piece in pieces:
            out[start : start + len(piece[0])] = work(*piece)
            start += len(piece[0])
        return out

    def push(self, z: Tensor) -> Tensor:
        """Latent points z (n, d) to points x = T(z) (n, d)."""
        return self._by_chunks(lambda z: self.flow.forward(self.theta, z)[0], z)

    @torch.no_grad()
    def pull(self, x: Tensor) -> Tensor:
        """Points x (n, d) to latent points z = T^{-1}(x) (n, d)."""
        return self._by_chunks(lambda x: self.flow.inverse(self.theta, x)[0], x)

    def rsample(self, sample_shape=()) -> Tensor:
        """Draws (*sample_shape, d), differentiable in theta; torch's global generator is used."""
        shape = torch.Size(sample_shape) + self.event_shape
        z = torch.randn(shape, dtype=self.theta.dtype, device=self.theta.device)
        return self.push(z.reshape(-1, shape[-1])).reshape(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density at x (..., d), exact; shape (...)."""
        d = self.event_shape[0]
        if value.shape[-1] != d:
            raise ValueError(
                f"log_prob got points of {value.shape[-1]} coordinates, but this law lives in "
                f"dimension {d}: pass a tensor of shape (..., {d})."
            )
        flat = value.reshape(-1, d).to(self.theta)

        def work(x):
            return _LogDensity.apply(self.flow, self.theta, x)

        return self._by_chunks(work, flat).reshape(value.shape[:-1])

    @torch.no_grad()
    def score(self, x: Tensor) -> Tensor:
        """grad log rho at x (n, d)."""

        def work(x):
            z = self.flow.inverse(self.theta, x)[0]
            return self.flow.linearize(self.theta, z).push_score(-z)

        return self._by_chunks(work, x)

    @torch.no_grad()
    def velocity(self, x: Tensor, dtheta: Tensor) -> Tensor:
        """Velocity at x (n, d) of a law whose parameters move with dtheta.

        That of the family, see :meth:`skfokker.flows.Flow.law_velocity`.
        """
        return self._by_chunks(lambda x: self.flow.law_velocity(self.theta, dtheta, x), x)


class _LogDensity(torch.autograd.Function):
    """log rho_theta(x) (n,), with derivatives that need no differentiable inverse."""

    @staticmethod
    def forward(ctx, flow: Flow, theta: Tensor, x: Tensor) -> Tensor:
        z, log_det = flow.inverse(theta, x)
        ctx.flow = flow
        ctx.save_for_backward(theta, z)
        return log_normal(z) + log_det

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, weight: Tensor):
        theta, z = ctx.saved_tensors
        score = weight[:, None] * ctx.flow.linearize(theta, z).push_score(-z)
        by_theta = None
        if ctx.needs_input_grad[1]:
            with torch.enable_grad():
                parameters = theta.detach().requires_grad_()
                y, log_det = ctx.flow.forward(parameters, z)
                total = -(score * y).sum() - (weight * log_det).sum()
            by_theta = torch.autograd.grad(total, parameters)[0]
        return None, by_theta, score if ctx.needs_input_grad[2] else None
