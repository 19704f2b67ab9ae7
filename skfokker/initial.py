"""Parameters of the start: exact for a Gaussian, by maximum likelihood for any other law."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree
from scipy.special import digamma, gammaln
from sklearn.base import BaseEstimator
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    LogNormal,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    Transform,
    TransformedDistribution,
    constraints,
)

from .cloning import CloneMixin
from .distribution import TransportedNormal
from .dynamics.support import Support
from .equation import log_normal
from .flows.base import Flow
from .potentials.base import as_covariance, as_float64
from .schemes.points import sobol_normal
from .seeded import Seeded

N_DRAWS = 4096  # draws of a law that is not Gaussian, for the fit and again for its error


class Gaussian(CloneMixin, BaseEstimator):
    """The start N(mean, covariance), met exactly by flows that end in an affine layer.

    Parameters
    ----------
    mean : float or array-like (d,), default=0
    covariance : float, array-like (d,) or (d, d), default=1
        A variance for every coordinate, d variances, or a symmetric positive definite matrix.
    """

    def __init__(self, mean=0.0, covariance=1.0):
        self.mean = mean
        self.covariance = covariance

    def moments(self, d: int) -> tuple[Tensor, Tensor]:
        """Mean (d,) and lower Cholesky factor of the covariance (d, d), float64."""
        mean = as_float64(self.mean, "the mean of initial")
        if mean.ndim > 1 or mean.numel() not in (1, d):
            raise ValueError(
                f"the mean of initial must be a number or have shape ({d},) like the points, got "
                f"shape {tuple(mean.shape)}"
            )
        covariance = as_covariance(self.covariance, d, "the covariance of initial")
        return mean.reshape(-1).expand(d).clone(), torch.linalg.cholesky(covariance)


def on_the_line(initial: Any, support: Support | None, d: int) -> Any:
    """The start in the coordinates y of a march between ends.

    Parameters
    ----------
    initial : as of the estimator
        A pair (mean, covariance), a :class:`Gaussian`, None and names are of y already;
        distributions and draws are of x.
    support : Support or None
    d : int

    Raises
    ------
    ValueError
        Where draws are not inside the support.
    """
    named = initial is None or isinstance(initial, tuple | Gaussian | str)
    if support is None or named:
        return initial
    if not isinstance(initial, Distribution):
        draws = _as_draws(initial, d)
        _refuse_outside(draws, support, "draws of initial lie")
        return support.to_y(draws)
    _refuse_outside(
        _draw(initial, d, torch.Generator().manual_seed(0), 256),
        support,
        f"draws from initial={type(initial).__name__} lie",
    )
    base, parts = initial, False
    if isinstance(initial, Independent) and initial.reinterpreted_batch_ndims == 1:
        base, parts = initial.base_dist, True
    if isinstance(base, LogNormal) and support.log_like:
        mean, width = (torch.as_tensor(a).expand(d) for a in (base.loc, base.scale))
        return Gaussian(mean, width.square())
    if d == 1 and not base.event_shape and not base.batch_shape:
        base = base.expand((1,))
        parts = True
    pulled = TransformedDistribution(base, [ToLine(support)], validate_args=False)
    return Independent(pulled, 1) if parts else pulled


def _refuse_outside(draws: Tensor, support: Support, what: str) -> None:
    lost = ~support.contains(draws)
    if lost.any():
        raise ValueError(
            f"{int(lost.sum())} of {len(draws)} {what} outside the support {support} of the "
            f"equation, x = {draws[lost][0].tolist()} for one. A Gaussian in the coordinates of "
            "the march (log x on a half line) is the pair (mean, covariance)."
        )


class ToLine(Transform):
    """y of x, as a transform of torch."""

    domain = codomain = constraints.real
    bijective = True
    sign = 1

    def __init__(self, support: Support):
        super().__init__()
        self.support = support

    def __eq__(self, other):
        return isinstance(other, ToLine) and vars(self.support) == vars(other.support)

    def _call(self, x):
        return self.support.to_y(x)

    def _inverse(self, y):
        return self.support.to_x(y)

    def log_abs_det_jacobian(self, x, y):
        return -self.support.log_slope(y)


def initial_parameters(
    initial: Any, flow: Flow, d: int, generator: torch.Generator, device: torch.device
) -> tuple[Tensor, float]:
    """Parameters theta_0 of the start, and its error E_0 (see :func:`initial_error`).

    Parameters
    ----------
    initial : None, (mean, covariance), Gaussian, Distribution or array-like (n, d)
        None is N(0, I). Gaussians are met exactly where ``flow.with_affine`` can; everything else
        is fitted by maximum likelihood, to draws.
    flow : Flow
    d : int
    generator : torch.Generator
    device : torch.device

    Returns
    -------
    theta : Tensor (m,)
    error : float
        0 where the start is met exactly. Otherwise estimated: from both log densities for a
        distribution, and for an array with the nearest-neighbour estimate of its entropy (which is
        biased upwards in high dimension).
    """
    theta = flow.init(d, generator).to(device, torch.float64)
    gaussian = _as_gaussian(initial)
    if gaussian is not None:
        mean, scale = (a.to(device) for a in gaussian.moments(d))
        if flow.starts_at_identity(d):
            if not mean.any() and torch.equal(scale, torch.eye(d).to(scale)):
                return theta, 0.0
            exact = flow.with_affine(theta, mean, scale)
            if exact is not None:
                return exact, 0.0
        initial = MultivariateNormal(mean.cpu(), scale_tril=scale.cpu())
    draws, held_out = initial_draws(initial, d, N_DRAWS, generator)
    theta = maximum_likelihood(flow, theta, draws.to(device))
    return theta, initial_error(initial, flow, theta, held_out)


def log_sobolev_constant(initial: Any, d: int) -> float | None:
    """alpha with 2 alpha KL(. | rho_0) <= I(. | rho_0): 1 / the largest variance of a Gaussian."""
    gaussian = _as_gaussian(initial)
    if gaussian is None:
        return None
    return 1 / float(torch.linalg.matrix_norm(gaussian.moments(d)[1], 2)) ** 2


def initial_draws(
    initial: Any, d: int, n: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draws of the start, (n, d) each, to work with and to test on; a given array is divided."""
    gaussian = _as_gaussian(initial)
    if gaussian is not None:
        mean, scale = gaussian.moments(d)
        z = torch.randn(2 * n, d, dtype=torch.float64, generator=generator)
        draws, held_out = (mean + z @ scale.T).split(n)
        return draws, held_out
    if isinstance(initial, Distribution):
        return _draw(initial, d, generator, n), _draw(initial, d, generator, n)
    draws = _as_draws(initial, d)
    order = torch.randperm(len(draws), generator=generator)
    held_out, draws = draws[order].tensor_split([max(len(draws) // 5, 2)])
    return draws, held_out


def initial_error(initial: Any, flow: Flow, theta: Tensor, held_out: Tensor) -> float:
    """E_0, the KL divergence between rho_theta and rho_0 with which the certificate starts.

    Where the density of the start is known it is KL(rho_theta | rho_0), on as many points of
    rho_theta as there are in ``held_out`` (n, d). Where it is not, or where the start has no mass
    in some places, it is KL(rho_0 | rho_theta), on the draws ``held_out``, which theta was not
    fitted to.
    """
    n, d = held_out.shape
    gaussian = _as_gaussian(initial)
    if gaussian is not None:
        mean, scale = gaussian.moments(d)
        initial = MultivariateNormal(mean, scale_tril=scale)
    fitted = TransportedNormal(flow, theta, d).log_prob(held_out.to(theta)).cpu()
    if not isinstance(initial, Distribution):
        return float(-nearest_neighbour_entropy(held_out.numpy()) - fitted.mean())

    def log_start(x):
        return initial.log_prob(x if initial.event_shape else x[:, 0]).detach()

    with torch.no_grad():
        z = sobol_normal(n, d, seed=0)
        y, log_det = (a.cpu() for a in flow.forward(theta, z.to(theta)))
    try:
        error = float((log_normal(z) - log_det - log_start(y)).mean())
    except ValueError:  # outside the support
        error = float("inf")
    return error if np.isfinite(error) else float((log_start(held_out) - fitted).mean())


def initial_moments(initial: Any, d: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean (d,) of the start and a root of its covariance (d, d); rough, for looking around."""
    gaussian = _as_gaussian(initial)
    if gaussian is not None:
        mean, scale = gaussian.moments(d)
    else:
        if isinstance(initial, Distribution):
            draws = _draw(initial, d, torch.Generator().manual_seed(0))
        else:
            draws = _as_draws(initial, d)
        mean, scale = draws.mean(0), torch.diag(draws.std(0))
    return mean.to(device), scale.to(device)


def initial_shape(initial: Any, d: int) -> tuple[bool, bool]:
    """Whether the start is known to be a Gaussian, and to have independent coordinates."""
    gaussian = _as_gaussian(initial)
    if gaussian is not None:
        scale = gaussian.moments(d)[1]
        return True, bool((scale == torch.diag(scale.diagonal())).all())
    # torch names a law of independent coordinates by wrapping one-dimensional laws
    return False, d == 1 or (isinstance(initial, Independent) and not initial.base_dist.event_shape)


def maximum_likelihood(flow: Flow, theta: Tensor, draws: Tensor, max_iter: int = 100) -> Tensor:
    """Parameters fitted to draws (n, d) by L-BFGS, starting at the Gaussian fit.

    A unit normal prior about that start, worth one draw, keeps what the draws say nothing about
    (the far tails) where it was.
    """
    d = draws.shape[1]
    gap = draws - draws.mean(0)
    covariance = gap.T @ gap / len(draws)
    covariance = covariance + 1e-9 * covariance.diagonal().mean() * torch.eye(d).to(gap)
    gaussian = flow.with_affine(theta, draws.mean(0), torch.linalg.cholesky(covariance))
    start = theta if gaussian is None else gaussian
    return climb_likelihood(flow, start, draws, max_iter)


def climb_likelihood(
    flow: Flow, start: Tensor, draws: Tensor, max_iter: int = 100, ridge: float = 1.0
) -> Tensor:
    """The same from any start (m,), with a unit normal prior about it worth ``ridge`` draws."""
    d = draws.shape[1]
    theta = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [theta],
        max_iter=max_iter,
        history_size=30,
        tolerance_grad=1e-8,
        tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = -TransportedNormal(flow, theta, d).log_prob(draws).mean()
        value = value + 0.5 * ridge * (theta - start).square().sum() / len(draws)
        value.backward()
        return value

    optimizer.step(loss)
    return theta.detach()


def nearest_neighbour_entropy(x: np.ndarray) -> float:
    """Differential entropy of the law of draws x (n, d).

    L. F. Kozachenko and N. N. Leonenko, "Sample estimate of the entropy of a random vector" (1987).
    """
    n, d = x.shape
    distance = cKDTree(x).query(x, 2)[0][:, 1]
    log_ball = 0.5 * d * np.log(np.pi) - gammaln(0.5 * d + 1)
    tiny = np.finfo(float).tiny
    return float(d * np.log(np.maximum(distance, tiny)).mean() + log_ball + digamma(n) - digamma(1))


def _as_gaussian(initial: Any) -> Gaussian | None:
    if initial is None:
        return Gaussian()
    if isinstance(initial, Gaussian):
        return initial
    if isinstance(initial, tuple):
        if len(initial) != 2:
            raise ValueError(
                f"initial as a tuple is (mean, covariance), got {len(initial)} entries; give "
                "draws as an array of shape (n, d)."
            )
        return Gaussian(*initial)
    if isinstance(initial, MultivariateNormal | LowRankMultivariateNormal):
        if not initial.batch_shape:
            return Gaussian(initial.mean, initial.covariance_matrix)
    if isinstance(initial, Independent) and isinstance(initial.base_dist, Normal):
        if not initial.batch_shape and len(initial.event_shape) == 1:
            return Gaussian(initial.mean, initial.variance)
    if isinstance(initial, Normal) and not initial.batch_shape:
        return Gaussian(initial.mean, initial.variance)
    return None


def _draw(law: Distribution, d: int, generator: torch.Generator, n: int = N_DRAWS) -> Tensor:
    shape = tuple(law.batch_shape), tuple(law.event_shape)
    if shape != ((), (d,)) and not (d == 1 and shape == ((), ())):
        raise ValueError(
            f"initial must have batch_shape () and event_shape ({d},), got {shape[0]} and "
            f"{shape[1]}; for independent coordinates wrap it in "
            "torch.distributions.Independent(law, 1)."
        )
    seed = int(torch.randint(2**62, (), generator=generator))
    with Seeded(seed):
        draws = law.sample((n,))
    return draws.reshape(n, d).cpu().to(torch.float64)


def _as_draws(initial: Any, d: int) -> Tensor:
    draws = as_float64(initial, "initial")
    if draws.ndim != 2 or draws.shape[1] != d or len(draws) < 10:
        raise ValueError(
            f"initial as an array holds at least 10 draws of shape (n, {d}), got shape "
            f"{tuple(draws.shape)}; a Gaussian start is the tuple (mean, covariance)."
        )
    return draws
