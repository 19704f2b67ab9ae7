"""The triangular map from N(0, I) to a mixture of Gaussians: several modes, in closed form."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from ..equation import log_normal
from .base import Flow, Linearization, MainPart
from .inverse import _Solve
from .mixture_fields import Exchange, Network, symmetric_generator
from .mixture_map import Mixture

_LOG_2PI = math.log(2 * math.pi)
_NEGLIGIBLE = 1e-3  # weight of a component that the rest may be certified without


class MixtureFlow(Flow):
    r"""The Knothe-Rosenblatt map of a mixture of K Gaussians.

    Coordinate by coordinate, :math:`\Phi(x_i) = F_i(y_i | y_1, \dots, y_{i-1})` with F_i the
    conditional distribution function of :math:`\sum_k w_k N(m_k, L_k L_k^T)`: the image of
    N(0, I) is the mixture itself, the map is smooth, and it is invertible whatever theta is. The
    way back is in closed form, the way there a root of a monotone function a coordinate.

    theta holds K logits of the weights, K means, and K lower triangles with logarithms on their
    diagonals.

    The velocity of the law (:meth:`law_velocity`) is not the tangent of this map, but another
    field that moves the law in the same way, and as little as it can: component k moves by a
    gradient field, :math:`r_k(y) (m_k' + B_k (y - m_k))` with B_k symmetric and r_k(y) the share
    of component k at y, and weight moves from component to component along straight lines between
    them. In the triangular map's own field the residual of equation (28) would be dominated by a
    part that does not change the law.

    Parameters
    ----------
    n_components : int, default=8
        K.

    Notes
    -----
    :meth:`init` gives K equal components, that is N(0, I), from which no march can start: they
    would stay equal. A fit takes the parts of rho_0 that end in different places as the first
    components (:func:`skfokker.scout.split_by_destination`).
    """

    moves_otherwise = closed_form = True

    def __init__(self, n_components: int = 8):
        self.n_components = n_components

    def _check(self):
        if self.n_components < 1:
            raise ValueError(
                f"n_components={self.n_components} of MixtureFlow must be at least 1; try 8."
            )

    def n_parameters(self, d):
        return self.n_components * (1 + d + d * (d + 1) // 2)

    def init(self, d, generator=None):
        self._check()
        return torch.zeros(self.n_parameters(d), dtype=torch.float64)

    def parts(self, theta: Tensor, d: int) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (K,), means (K, d), and triangles (K, d, d) whose diagonals are logarithms."""
        k = self.n_components
        logits, means, entries = theta.split([k, k * d, k * d * (d + 1) // 2])
        row, column = torch.tril_indices(d, d, device=theta.device)
        triangle = theta.new_zeros(k, d, d).index_put(
            (torch.arange(k, device=theta.device)[:, None], row, column), entries.view(k, -1)
        )
        return logits, means.view(k, d), triangle

    def pack(self, logits: Tensor, means: Tensor, triangle: Tensor) -> Tensor:
        """theta (..., m) of its parts (..., K), (..., K, d), (..., K, d, d)."""
        d = means.shape[-1]
        row, column = torch.tril_indices(d, d, device=means.device)
        return torch.cat(
            [logits, means.flatten(-2), triangle[..., row, column].flatten(-2)], dim=-1
        )

    def from_components(self, weights: Tensor, means: Tensor, covariances: Tensor) -> Tensor:
        """theta of the mixture with these weights (K,), means (K, d), covariances (K, d, d)."""
        triangle = _on_diagonal(torch.log, torch.linalg.cholesky(covariances))
        return self.pack(weights.log() - weights.log().mean(), means, triangle)

    def mixture(self, theta: Tensor, d: int) -> Mixture:
        """The law of the image."""
        logits, means, triangle = self.parts(theta, d)
        return Mixture(torch.log_softmax(logits, 0), means, _on_diagonal(torch.exp, triangle))

    def forward(self, theta, x):
        with torch.no_grad():
            y = self.mixture(theta, x.shape[1]).push(x)
        if torch.is_grad_enabled() and (theta.requires_grad or x.requires_grad):
            # implicit function theorem: one Newton step from the solution carries the derivatives
            with torch.no_grad():
                here = self.linearize(theta, x, y)
            y = y + _Solve.apply(x - self.inverse(theta, y)[0], _Backwards(here))
        return y, log_normal(x) - self.mixture(theta, x.shape[1]).log_prob(y)

    def inverse(self, theta, y):
        mixture = self.mixture(theta, y.shape[1])
        x = mixture.pull(y)
        return x, mixture.log_prob(y) - log_normal(x)

    def linearize(self, theta, x, y=None):
        return _MixtureLinearization(self, theta, x, y)

    def law_velocity(self, theta, dtheta, y):
        return _MixtureMotion(self, theta, y).law_velocity(dtheta)

    def score_and_divergence(self, theta, y):
        here = _MixtureMotion(self, theta, y)
        return here.score, here.divergence_of_score

    def log_density_rate(self, theta, dtheta, y):
        return _MixtureMotion(self, theta, y).rate(dtheta)

    def main_part(self, thetas, d):
        """The mixture without the components that never weigh as much as 1e-3."""
        k = self.n_components
        kept = torch.softmax(thetas[:, :k], 1).amax(0) >= _NEGLIGIBLE
        if kept.all():
            return None
        size, entries = int(kept.sum()), torch.arange(thetas.shape[1])
        sizes = [k, k * d, k * d * (d + 1) // 2]
        columns = [part.view(k, -1)[kept.cpu()].flatten() for part in entries.split(sizes)]

        def left_out(thetas):
            return torch.softmax(thetas[:, :k], 1)[:, ~kept].sum(1)

        return MainPart(MixtureFlow(size), torch.cat(columns), left_out)

    def with_affine(self, theta, mean, scale):
        logits, means, triangle = self.parts(theta, len(mean))
        root = scale @ _on_diagonal(torch.exp, triangle)
        return self.pack(logits, mean + means @ scale.T, _on_diagonal(torch.log, root))


def _on_diagonal(change, triangle: Tensor) -> Tensor:
    """Lower triangles (..., d, d) with their diagonals changed."""
    diagonal = change(triangle.diagonal(dim1=-2, dim2=-1))
    return triangle.tril(-1) + torch.diag_embed(diagonal)


class _Backwards:
    """A linearization of T that solves with dS/dy, S the inverse of T."""

    def __init__(self, linearization):
        self.solve = linearization.push
        self.solve_transposed = linearization.pull


class _MixtureMotion:
    """How the law moves with theta at points y (n, d): the field described in MixtureFlow."""

    def __init__(self, flow, theta, y):
        self.flow, self.y = flow, y
        self.mixture = mixture = flow.mixture(theta, y.shape[1])
        self.whitened = mixture.whiten(y)
        log_components = mixture.log_components(self.whitened)
        self.log_density = torch.logsumexp(log_components, 1)
        self.shares = (log_components - self.log_density[:, None]).exp()
        self.weights = mixture.log_weights.exp()

    @cached_property
    def score(self) -> Tensor:
        """Gradient of the log density of the mixture at y (n, d)."""
        return self.mixture.score(self.whitened, self.shares)

    @property
    def divergence_of_score(self) -> Tensor:
        """Laplacian of the log density of the mixture at y (n,)."""
        whitener = self.mixture.whitener
        squares = (self.whitened[:, :, None] @ whitener)[:, :, 0].square().sum(2)
        curvature = squares - whitener.square().sum((1, 2))
        return (self.shares * curvature).sum(1) - self.score.square().sum(1)

    def rate(self, dtheta: Tensor) -> Tensor:
        """Change of the log density of the mixture at y (n,)."""
        dlogits, dmeans, dtriangle = self.flow.parts(dtheta, self.y.shape[1])
        z, whitener = self.whitened, self.mixture.whitener
        inner = whitener @ self._triangle(dtriangle)
        dz = -(z[:, :, None] @ inner.mT)[:, :, 0] - (whitener @ dmeans[..., None])[..., 0]
        constant = dlogits - self.weights @ dlogits - dtriangle.diagonal(dim1=1, dim2=2).sum(1)
        return (self.shares * (constant - (z * dz).sum(2))).sum(1)

    @cached_property
    def centred(self) -> Tensor:
        """y - m_k (n, K, d)."""
        return self.y[:, None] - self.mixture.means

    @cached_property
    def network(self) -> Network:
        """Between which components weight moves."""
        return Network(self.mixture)

    @cached_property
    def exchange(self) -> Exchange:
        """How weight moves between components."""
        return Exchange(self.mixture, self.network, self.y, self.log_density)

    def _triangle(self, dtriangle):
        """Change of the root, from that of the triangle with logarithms on its diagonal."""
        return _on_diagonal(lambda diagonal: diagonal * self.mixture.diagonal, dtriangle)

    def law_velocity(self, dtheta):
        dlogits, dmeans, dtriangle = self.flow.parts(dtheta, self.y.shape[1])
        droot = self._triangle(dtriangle)
        dcovariance = droot @ self.mixture.root.mT
        generator = symmetric_generator(self.mixture.root, dcovariance + dcovariance.mT)
        dweights = self.weights * (dlogits - self.weights @ dlogits)
        shared = self.shares[..., None] * self.centred
        v = self.shares @ dmeans + shared.flatten(1) @ generator.flatten(0, 1)
        if len(self.weights) > 1 and dweights.any():
            v = v + self.exchange.field(dweights)
        return v

    def law_pull_back(self, v):
        by_mean = self.shares.T @ v
        shared = (self.shares[..., None] * self.centred).flatten(1)
        by_generator = (shared.T @ v).view(self.mixture.root.shape)
        return self._pull_back(by_mean, by_generator, self._by_weights(v))

    def _by_weights(self, v):
        if len(self.weights) == 1:
            return torch.zeros_like(self.weights)
        return self.exchange.field_transposed(v)

    def _pull_back(self, by_mean: Tensor, by_generator: Tensor, by_weights: Tensor) -> Tensor:
        """Gradient in theta (..., m) from those in m_k', B_k and w_k'."""
        root = self.mixture.root
        by_covariance = symmetric_generator(root, (by_generator + by_generator.mT) / 2)
        by_root = ((by_covariance + by_covariance.mT) @ root).tril()
        by_triangle = self._triangle(by_root)  # diagonal, hence its own adjoint
        mean = (self.weights * by_weights).sum(-1, keepdim=True)
        return self.flow.pack(self.weights * (by_weights - mean), by_mean, by_triangle)

    def law_jacobian(self, left=None):
        n, d = self.y.shape
        left = torch.eye(d).to(self.y).expand(n, d, d) if left is None else left
        by_mean = self.shares[:, None, :, None] * left[:, :, None]
        by_generator = by_mean[..., None] * self.centred[:, None, :, None, :]
        if len(self.weights) == 1:
            by_weights = left.new_zeros(*left.shape[:2], 1)
        else:
            by_weights = left @ self.exchange.columns
        return self._pull_back(by_mean, by_generator, by_weights)


class _MixtureLinearization(_MixtureMotion, Linearization):
    def __init__(self, flow, theta, x, y=None):
        super().__init__(flow, theta, flow.mixture(theta, x.shape[1]).push(x) if y is None else y)
        self.x = x
        self.log_det = log_normal(x) - self.log_density

    # in the points: S = T^{-1} has a triangular Jacobian in closed form

    @cached_property
    def by_component(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of x_i = Phi^{-1}(sum_k w_k Phi(z_k)): w_k, and dx_i by log w_k and z_k (n, K, d)."""
        z, log_weights = self.whitened, self.mixture.conditional(self.whitened)
        # both sides of F_i are differentiated on the thinner tail, relative to phi(x_i)
        side = torch.where(self.x > 0, -1.0, 1.0).to(z)[:, None]
        log_phi = (-0.5 * self.x.square() - 0.5 * _LOG_2PI)[:, None]
        tail = (log_weights + torch.special.log_ndtr(side * z) - log_phi).exp() * side
        density = (log_weights - 0.5 * z.square() - 0.5 * _LOG_2PI - log_phi).exp()
        return log_weights.exp(), tail, density

    @cached_property
    def by_y(self) -> Tensor:
        """dS/dy (n, d, d), lower triangular."""
        z, whitener = self.whitened, self.mixture.whitener
        n, _, d = z.shape
        weights, tail, density = self.by_component
        by_y = z.new_zeros(n, d, d)
        # d log w_k / dy_l, from the coordinates before i; starts at zero for i = 0
        by_weight = z.new_zeros(n, z.shape[1], d)
        for i in range(d):
            centred = by_weight - (weights[:, :, i, None] * by_weight).sum(1, keepdim=True)
            by_y[:, i] = (tail[:, :, i, None] * centred).sum(1)
            by_y[:, i] += density[:, :, i] @ whitener[:, i]
            by_weight = by_weight - z[:, :, i, None] * whitener[:, i]
        return by_y.tril()

    @cached_property
    def by_x(self) -> Tensor:
        """dT/dx (n, d, d), lower triangular."""
        identity = torch.eye(self.x.shape[1]).to(self.x).expand_as(self.by_y)
        return torch.linalg.solve_triangular(self.by_y, identity, upper=False)

    def by_points(self):
        return self.by_x

    def grad_log_det(self):
        return -self.x - self.pull(self.score)

    def push(self, v):
        """dT/dx v."""
        return (self.by_x @ v[:, :, None])[:, :, 0]

    def pull(self, v):
        """(dT/dx)^T v."""
        return (v[:, None] @ self.by_x)[:, 0]

    def solve(self, v):
        return (self.by_y @ v[:, :, None])[:, :, 0]

    def solve_transposed(self, v):
        return v @ self.by_y if v.ndim == 3 else (v[:, None] @ self.by_y)[:, 0]

    def push_score(self, score):
        excess = score + self.x  # the score of the reference itself is -x
        return self.score + self.solve_transposed(excess) if excess.any() else self.score

    # in the parameters: from S(y; theta) = x, dT/dtheta = -(dS/dy)^{-1} dS/dtheta

    def jvp(self, dtheta, dx=None):
        dlogits, dmeans, dtriangle = self.flow.parts(dtheta, self.x.shape[1])
        z, (weights, tail, density) = self.whitened, self.by_component
        droot, dlog_diagonal = self._triangle(dtriangle), dtriangle.diagonal(dim1=1, dim2=2)
        moved = (z[:, :, None] @ droot.mT)[:, :, 0] + dmeans
        dz = -(moved[:, :, None] @ self.mixture.whitener.mT)[:, :, 0]
        terms = -z * dz - dlog_diagonal
        dlog_weights = dlogits[:, None] + terms.cumsum(2) - terms
        dlog_weights = dlog_weights - (weights * dlog_weights).sum(1, keepdim=True)
        back = (tail * dlog_weights + density * dz).sum(1)
        return self.push(-back if dx is None else dx - back)

    def vjp(self, v):
        by_x = self.pull(v)
        return self._back(-by_x[:, None]).sum(0)[0], by_x

    def jacobian(self, left=None):
        by_x = self.by_x if left is None else left @ self.by_x
        return self._back(-by_x), by_x

    def _back(self, v):
        """v dS/dtheta (n, r, m) for rows v (n, r, d)."""
        z, (weights, tail, density) = self.whitened, self.by_component
        z, v = z[:, None], v[:, :, None]
        by_log_weights = v * (tail - weights * tail.sum(1, keepdim=True))[:, None]
        later = by_log_weights.flip(-1).cumsum(-1).flip(-1) - by_log_weights
        by_mean = -((v * density[:, None] - z * later)[..., None, :] @ self.mixture.whitener)
        by_mean = by_mean[..., 0, :]
        by_triangle = self._triangle((by_mean[..., :, None] * z[..., None, :]).tril())
        by_triangle = by_triangle - torch.diag_embed(later)
        return self.flow.pack(by_log_weights.sum(-1), by_mean, by_triangle)
