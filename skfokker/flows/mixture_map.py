"""A mixture of Gaussians by its components: its density, and the triangular map from N(0, I)."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

_LOG_2PI = math.log(2 * math.pi)
_FAR = 1e150  # standard deviations; the square of more is no number


class Mixture:
    """sum_k w_k N(m_k, L_k L_k^T), and its Knothe-Rosenblatt map.

    Parameters
    ----------
    log_weights : Tensor (K,)
    means : Tensor (K, d)
    root : Tensor (K, d, d)
        Lower triangular, of positive diagonal.
    """

    def __init__(self, log_weights: Tensor, means: Tensor, root: Tensor):
        self.log_weights, self.means, self.root = log_weights, means, root
        self.diagonal = root.diagonal(dim1=1, dim2=2)

    @cached_property
    def weights(self) -> Tensor:
        """(K,), none of them zero."""
        return self.log_weights.exp().clamp(min=1e-30)

    @cached_property
    def whitener(self) -> Tensor:
        """The inverse of every root (K, d, d)."""
        identity = torch.eye(self.root.shape[1]).to(self.root).expand_as(self.root)
        return torch.linalg.solve_triangular(self.root, identity, upper=False)

    @property
    def covariances(self) -> Tensor:
        """(K, d, d)."""
        return self.root @ self.root.mT

    def whiten(self, y: Tensor) -> Tensor:
        """L_k^{-1} (y - m_k), (n, K, d)."""
        n, d = y.shape
        flat = self.whitener.reshape(-1, d)
        offset = (self.whitener @ self.means[:, :, None])[:, :, 0]
        return ((y @ flat.T).view(n, -1, d) - offset).clamp(-_FAR, _FAR)

    def log_components(self, whitened: Tensor) -> Tensor:
        """log w_k N(y; m_k, C_k) at whitened points (n, K, d), shape (n, K)."""
        d = whitened.shape[2]
        constant = self.log_weights - self.diagonal.log().sum(1) - 0.5 * d * _LOG_2PI
        return constant - 0.5 * whitened.square().sum(2)

    def log_prob(self, y: Tensor) -> Tensor:
        """Log density at y (n, d)."""
        return torch.logsumexp(self.log_components(self.whiten(y)), 1)

    def score(self, whitened: Tensor, shares: Tensor) -> Tensor:
        """Gradient of the log density (n, d) from whitened points and shares of components."""
        return -(shares[..., None] * whitened).flatten(1) @ self.whitener.flatten(0, 1)

    def conditional(self, whitened: Tensor) -> Tensor:
        """Log weights of coordinate i given those before it, (n, K, d)."""
        terms = -0.5 * whitened.square() - self.diagonal.log()
        before = self.log_weights[:, None] + terms.cumsum(2) - terms
        return before - torch.logsumexp(before, 1, keepdim=True)

    def pull(self, y: Tensor) -> Tensor:
        """From points y to latent points x (n, d): Phi(x_i) = F_i(y_i | y_<i)."""
        whitened = self.whiten(y)
        return _gaussianise(self.conditional(whitened), whitened, 1)

    def push(self, x: Tensor) -> Tensor:
        """From latent points x to points y (n, d), one coordinate after another."""
        y, whitened = torch.empty_like(x), x.new_zeros(len(x), len(self.means), x.shape[1])
        log_weights = self.log_weights.expand(len(x), -1)
        for i in range(x.shape[1]):
            shift = (whitened[:, :, :i] * self.root[:, i, :i]).sum(2)
            centre = self.means[:, i] + shift
            y[:, i] = _mixture_quantile(x[:, i], log_weights, centre, self.diagonal[:, i])
            z = (y[:, i, None] - centre) / self.diagonal[:, i]
            whitened[:, :, i] = z.clamp(-_FAR, _FAR)
            log_weights = log_weights - 0.5 * whitened[:, :, i].square() - self.diagonal[:, i].log()
            log_weights = log_weights - torch.logsumexp(log_weights, 1, keepdim=True)
        return y


def _gaussianise(log_weights: Tensor, z: Tensor, dim: int) -> Tensor:
    """Phi^{-1}(sum_k w_k Phi(z_k)), accurate in both tails; differentiable."""
    lower = torch.logsumexp(log_weights + torch.special.log_ndtr(z), dim)
    upper = torch.logsumexp(log_weights + torch.special.log_ndtr(-z), dim)
    with torch.no_grad():
        left = lower < upper
        # the thinner side has no more than a half, whatever the rounding of weights far out
        x = normal_quantile(torch.where(left, lower, upper).clamp(max=-math.log(2)))
        x = torch.where(left, x, -x)
    if not (torch.is_grad_enabled() and (lower.requires_grad or upper.requires_grad)):
        return x
    log_phi = -0.5 * x.square() - 0.5 * _LOG_2PI
    by_lower = (lower - lower.detach()) * (lower.detach() - log_phi).exp()
    by_upper = (upper - upper.detach()) * (upper.detach() - log_phi).exp()
    return x + torch.where(left, by_lower, -by_upper)


def normal_quantile(log_p: Tensor) -> Tensor:
    """x with log Phi(x) = log_p, accurate for log_p <= log(1/2) however small p is."""
    direct = torch.special.ndtri(log_p.clamp(min=-500.0).exp())
    if not (log_p < -500.0).any():
        return direct
    size = (-2 * log_p).clamp(min=1.0)
    x = -(size - torch.log(2 * math.pi * size)).clamp(min=0.0).sqrt()
    for _ in range(4):
        value = torch.special.log_ndtr(x)
        # far out phi / Phi is |x|, of which the difference of two squares has no digits left
        slope = (-0.5 * x.square() - 0.5 * _LOG_2PI - value).exp()
        slope = torch.where(x < -1e5, -x, slope)
        x = x - (value - log_p) / slope
    return torch.where(log_p < -500.0, x, direct)


def _mixture_quantile(x: Tensor, log_weights: Tensor, centre: Tensor, sd: Tensor) -> Tensor:
    """y with sum_k w_k Phi((y - c_k) / s_k) = Phi(x): Newton kept inside a shrinking bracket.

    x (n,), log_weights and centre (n, K), sd (K,). The quantiles of the components enclose that of
    the mixture. Newton works on Phi^{-1} of either side, on which a single Gaussian is linear.
    """
    # on the thinner side of the solution both are accurate in its tail
    side = torch.where(x > 0, -1.0, 1.0).to(x)
    quantiles = centre + sd * x[:, None]
    low, high = quantiles.amin(1), quantiles.amax(1)
    y = (log_weights.exp() * quantiles).sum(1)
    out, active = y.clone(), torch.arange(len(x), device=x.device)
    done = torch.zeros_like(x, dtype=torch.bool)
    near = bool((x.abs() < 35.0).all())
    evaluate = _tail_and_density if near else _tail_and_density_far
    weights = log_weights.exp() if near else log_weights
    eps = 4 * torch.finfo(x.dtype).eps
    width = float(sd.min())
    for _ in range(200):
        here, slope = evaluate((y[:, None] - centre) / sd, weights, sd, side)
        error = side * here - x
        step = error * (-0.5 * here.square() - 0.5 * _LOG_2PI).exp() / slope
        low, high = torch.where(error > 0, low, y), torch.where(error > 0, y, high)
        after = y - step
        inside = (after > low) & (after < high)  # False for NaN
        scale = eps * (y.abs() + width)
        exact = error.abs() <= eps * (1 + x.abs())
        after = torch.where(inside, after, 0.5 * (low + high))
        y = torch.where(done | (exact & ~inside), y, after)
        done |= exact | (inside & (step.abs() <= scale)) | (high - low <= scale)
        remaining = len(done) - int(done.sum())
        if remaining == 0:
            break
        if remaining < len(done) // 2:
            out[active] = y
            go = ~done
            active, done, y, low, high = active[go], done[go], y[go], low[go], high[go]
            x, side, weights, centre = x[go], side[go], weights[go], centre[go]
    out[active] = y
    return out


def _tail_and_density(z: Tensor, weights: Tensor, sd: Tensor, side: Tensor):
    """Phi^{-1} of the mixture below (side 1) or above (side -1) a point, and its density there."""
    tail = (weights * torch.special.erfc(z * (-math.sqrt(0.5) * side[:, None]))).sum(1) / 2
    density = (weights * (-0.5 * z.square()).exp()) @ (1 / sd)
    return torch.special.ndtri(tail.clamp(max=1.0)), density * math.exp(-0.5 * _LOG_2PI)


def _tail_and_density_far(z: Tensor, log_weights: Tensor, sd: Tensor, side: Tensor):
    """The same from log weights, where the tail may be less than the smallest number."""
    log_tail = torch.logsumexp(log_weights + torch.special.log_ndtr(side[:, None] * z), 1)
    log_density = torch.logsumexp(log_weights - 0.5 * z.square() - sd.log(), 1) - 0.5 * _LOG_2PI
    return normal_quantile(log_tail.clamp(max=0.0)), log_density.exp()
