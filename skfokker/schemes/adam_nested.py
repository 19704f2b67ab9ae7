"""Algorithm 1 of the paper: Adam on theta around Adam on the dual, at every time step."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..duals import NetworkDual
from .base import Scheme, Step


class AdamNested(Scheme):
    r"""Algorithm 1: the saddle point (45) of every time step, by Adam inside Adam.

    .. math:: \theta_{k+1} = \arg\min_\theta \max_\varphi \;
       E[2 \nabla\varphi(T_k) \cdot (T_\theta - T_k)] - E|\nabla\varphi(T_k)|^2 + 2 h H(\theta)
       \qquad (45)

    The inner loop fits :math:`\epsilon \nabla\varphi` to the displacements
    :math:`T_\theta - T_k` ((64), (66), rescaled as in Remark 9); each of its ends gives one
    descent direction of theta ((65), (67)). The time step is implicit Euler: first order in h.

    Use it to reproduce the paper; `LeastSquaresNested` solves the same inner problem in closed
    form, hundreds of times faster and to more digits.

    **What the settings of section 6 do, and what the defaults change.** With the printed learning
    rates and a dual re-initialised at every step (:meth:`as_printed`), theta runs ahead of the
    equation: a dual near zero has no gradient for dozens of steps, so nothing holds theta back,
    and after ten steps of the plane quadratic the mean is half as far again as it should be.
    The authors' program has the two rates the other way round, as the defaults have. Two more
    settings decide, and leave the algorithm alone:

    - theta starts each step from the damped linear extrapolation of the last two
      (``extrapolate``). Started from theta_k, the displacement to be fitted falls back to zero
      at every time step, where a warm dual is wrong and a cold one useless: 20 % error in the
      mean instead of 1 %.
    - the dual is smooth (``activation="softplus"``). The gradient field of a ReLU network is
      piecewise constant: it misses contraction, which then costs nothing, and the variance
      falls 10 to 16 % low instead of 1 %.

    The rest is housekeeping that these problems hardly feel: the dual and the Adam states stay
    warm from one time step to the next; epsilon is the displacement expected, h times the root
    mean square of :math:`\nabla V + \beta \nabla \log\rho_\theta`, so that the dual's target has
    size one at all times; the dual sees :math:`T_k(X)` centred and scaled, since the biases of a
    ReLU network have no gradient and its kinks would stay at the origin; and grad H takes
    the score carried forward through the layers,
    :math:`E[(\nabla V + \beta \nabla\log\rho_\theta)(T_\theta) \cdot \partial_\theta T]`, which
    has the same mean as the derivative through log det and no noise near equilibrium.

    Parameters
    ----------
    step : float, default=0.005
        Largest time step h; the march is divided into equal ones.
    n_outer, n_inner : int, default=20
        Adam steps on theta a time step (M_out), and on the dual for each of these (M_in; the
        paper takes 100, which a dual restarted from nothing needs).
    n_first : int or None, default=60
        Outer steps of the first time step, where there is nothing to extrapolate and the dual
        is fresh; None for ``n_outer``.
    lr_outer, lr_inner : float, default=0.0005, 0.005
        Learning rates alpha_out and alpha_in. Where epsilon is not given, the outer rate falls with
        its square root, from ``lr_outer`` in the first time step: less noise as the law settles.
    lr_decay : float, default=0.3
        The outer rate falls geometrically to this fraction of itself within a time step.
    betas_outer, betas_inner : (float, float), default=(0.9, 0.999)
        Adam's memory.
    n_samples_outer, n_samples_inner : int or None, default=None
        K_out and K_in, samples a step; None for max(1000, 300 d) (Remark 10).
    n_batches : int or None, default=5
        Inner batches drawn at every time step and gone through in turn; T_k is evaluated once on
        them. None draws fresh samples for every inner step, at several times the cost.
    epsilon : float or None, default=None
        Unit of the displacements fitted by the dual (Remark 9: alpha_out); None for the
        displacement expected.
    dual : NetworkDual or None, default=None
        None for ``NetworkDual(activation="softplus")``.
    warm_dual, warm_adam : bool, default=True
        Keep the dual, and the moments of the two Adams, from one time step to the next.
    standardize : bool, default=True
        Centre and scale the inputs of the dual.
    extrapolate : float, default=0.9
        Start theta at theta_k + extrapolate (theta_k - theta_{k-1}); 0 starts at theta_k. At 1
        the noise of all earlier steps stays in the velocity.
    gradient : {"score", "autograd"}, default="score"
        Estimator of grad H: with the pointwise score, or through log det as in (67).
    keep_inner_losses : bool, default=False
        Store the inner losses, in units of epsilon^2, as ``record["inner_losses"]``
        (n_outer, n_inner).
    keep_dual : bool or collection of int, default=False
        Store the fitted potential as ``record["dual"]``, a `FittedDual`: after every
        time step, or after those of these numbers (from 1).

    Notes
    -----
    Errors on the quadratics of section 6.1.1 (mean (3, 3), beta = 1, `PlanarFlow` of 60 layers,
    one run each; a time step takes about one second of one core, 280 in all for t = 1.4):

    ========================  ========================  ========================
    at t = 0.05, 0.1,         mean, relative            covariance, relative
    0.35, 0.7
    ========================  ========================  ========================
    covariance I / 4          1.9, 0.6, 0.4, 0.2 %      0.8, 0.9, 0.4, 0.3 %
    covariance diag(1, 1/4)   1.6, 0.8, 0.5, 0.2 %      0.6, 0.3, 0.7, 0.6 %
    ========================  ========================  ========================

    The first-order time step alone accounts for 1.0, 0.8, 0.5, 0.2 % of the mean in the first
    row. At t = 1.4 the second has 0.3 % and 0.2 %.
    """

    def __init__(
        self,
        step: float = 0.005,
        *,
        n_outer: int = 20,
        n_inner: int = 20,
        n_first: int | None = 60,
        lr_outer: float = 0.0005,
        lr_inner: float = 0.005,
        lr_decay: float = 0.3,
        betas_outer: tuple[float, float] = (0.9, 0.999),
        betas_inner: tuple[float, float] = (0.9, 0.999),
        n_samples_outer: int | None = None,
        n_samples_inner: int | None = None,
        n_batches: int | None = 5,
        epsilon: float | None = None,
        dual: NetworkDual | None = None,
        warm_dual: bool = True,
        warm_adam: bool = True,
        standardize: bool = True,
        extrapolate: float = 0.9,
        gradient: str = "score",
        keep_inner_losses: bool = False,
        keep_dual: bool | Collection[int] = False,
    ):
        self.step = step
        self.n_outer = n_outer
        self.n_inner = n_inner
        self.n_first = n_first
        self.lr_outer = lr_outer
        self.lr_inner = lr_inner
        self.lr_decay = lr_decay
        self.betas_outer = betas_outer
        self.betas_inner = betas_inner
        self.n_samples_outer = n_samples_outer
        self.n_samples_inner = n_samples_inner
        self.n_batches = n_batches
        self.epsilon = epsilon
        self.dual = dual
        self.warm_dual = warm_dual
        self.warm_adam = warm_adam
        self.standardize = standardize
        self.extrapolate = extrapolate
        self.gradient = gradient
        self.keep_inner_losses = keep_inner_losses
        self.keep_dual = keep_dual

    @classmethod
    def as_printed(cls, **parameters) -> AdamNested:
        """Section 6 as printed; ``parameters`` override single settings.

        alpha_out = 0.005, alpha_in = 0.0005, M_out = 20, M_in = 100, a ReLU dual drawn from
        U(-0.1, 0.1) at every time step, fresh samples at every Adam step. It does not follow the
        equation: see above.
        """
        printed = dict(
            n_inner=100,
            n_first=None,
            lr_outer=0.005,
            lr_inner=0.0005,
            lr_decay=1.0,
            n_batches=None,
            epsilon=0.005,
            dual=NetworkDual(initial=0.1),
            warm_dual=False,
            standardize=False,
            extrapolate=0.0,
            gradient="autograd",
        )
        return cls(**{**printed, **parameters})

    def steps(self, equation, flow, theta, t_start, t_end, generator):
        march = _March(self, equation, flow, theta, generator)
        n_steps = max(1, math.ceil((t_end - t_start) / self.step - 1e-9))
        h = (t_end - t_start) / n_steps
        yield Step(t_start, theta, None, {"h": 0.0, "free_energy": march.free_energy(theta)})
        motion = torch.zeros_like(theta)
        for k in range(1, n_steps + 1):
            before = theta
            theta, record = march.advance(before, before + self.extrapolate * motion, h, k)
            motion = theta - before
            t = t_end if k == n_steps else t_start + k * h
            yield Step(t, theta, None, record)


@dataclass(frozen=True)
class FittedDual:
    """The dual potential at the end of a time step: grad phi is about T_{k+1} - T_k at T_k.

    Divided by -h it approximates V + beta log rho, up to a constant.
    """

    dual: NetworkDual
    psi: Tensor
    centre: Tensor
    scale: Tensor
    epsilon: float

    def value(self, y: Tensor) -> Tensor:
        """phi (n,) at the points y (n, d)."""
        x = ((y - self.centre) / self.scale).to(self.psi)
        return self.epsilon * self.scale * self.dual.value(self.psi, x).to(y)

    def gradient(self, y: Tensor) -> Tensor:
        """grad phi (n, d) at the points y (n, d)."""
        return self.epsilon * self.dual.gradient(self.psi, (y - self.centre) / self.scale)


class _March:
    """What lives from one time step to the next: the dual and the two Adam states."""

    def __init__(self, scheme: AdamNested, equation, flow, theta, generator):
        if not scheme.step > 0:
            raise ValueError(f"step must be positive, got {scheme.step!r}")
        if scheme.gradient not in ("score", "autograd"):
            raise ValueError(f'gradient must be "score" or "autograd", got {scheme.gradient!r}')
        self.scheme, self.equation, self.flow, self.generator = scheme, equation, flow, generator
        d = self.d = equation.d
        self.like = theta
        self.dual = NetworkDual(activation="softplus") if scheme.dual is None else scheme.dual
        self.n_outer = scheme.n_samples_outer or max(1000, 300 * d)  # Remark 10
        self.n_inner = scheme.n_samples_inner or max(1000, 300 * d)
        self.psi = self.dual.init(d, generator).to(theta.device)
        self.bound = self.dual.bind(self.psi, d)
        self.adam_outer = _Adam(theta, scheme.betas_outer)
        self.adam_inner = _Adam(self.psi, scheme.betas_inner)
        self.judges = self.draw(8192)

    def draw(self, n: int) -> Tensor:
        x = torch.randn(n, self.d, generator=self.generator, dtype=torch.float64)
        return x.to(self.like)

    @torch.no_grad()
    def free_energy(self, theta: Tensor) -> float:
        return float(self.equation.free_energy(self.flow, theta, self.judges))

    @torch.no_grad()
    def force(self, theta: Tensor, x: Tensor):
        """The linearized map at x and grad V + beta grad log rho_theta there."""
        at = self.flow.linearize(theta, x)
        return at, self.equation.driving_force(at.y, at.push_score(-x))

    def advance(self, anchor: Tensor, theta: Tensor, h: float, k: int) -> tuple[Tensor, dict]:
        """The saddle point (45) of time step k from ``anchor``, sought from ``theta`` on."""
        scheme, theta = self.scheme, theta.clone()
        self.epsilon = scheme.epsilon
        if self.epsilon is None:
            force = self.force(anchor, self.draw(self.n_outer))[1]
            self.epsilon = h * max(float(force.square().mean().sqrt()), 1e-12 * self.equation.beta)
        if k == 1:
            self.first_epsilon = self.epsilon
        rate = scheme.lr_outer * min(1.0, self.epsilon / self.first_epsilon) ** 0.5
        if not scheme.warm_dual and k > 1:
            self.psi.copy_(self.dual.init(self.d, self.generator))
        if not scheme.warm_adam:
            self.adam_outer.reset()
            self.adam_inner.reset()
        n_outer = scheme.n_first if k == 1 and scheme.n_first else scheme.n_outer
        losses: list[list[Tensor]] = []
        for i in range(n_outer):
            if i == 0 or scheme.n_batches is None:
                pool = self._pool(anchor, (scheme.n_batches or scheme.n_inner) * self.n_inner)
            losses.append(self._fit_dual(theta, pool))
            decay = scheme.lr_decay ** (i / max(1, n_outer - 1))
            self.adam_outer.descend(theta, self._slope(anchor, theta, h, pool), rate * decay)
        record: dict[str, Any] = {
            "h": h,
            "free_energy": self.free_energy(theta),
            "inner_loss": float(losses[-1][-1]),
            "epsilon": self.epsilon,
            "iterations": n_outer * scheme.n_inner,
        }
        if scheme.keep_inner_losses:
            record["inner_losses"] = torch.stack([torch.stack(row) for row in losses])
        if scheme.keep_dual is True or (scheme.keep_dual and k in scheme.keep_dual):
            _, _, centre, scale = pool
            record["dual"] = FittedDual(self.dual, self.psi.clone(), centre, scale, self.epsilon)
        return theta, record

    @torch.no_grad()
    def _pool(self, anchor, n):
        """Reference points X, their images T_k(X), and the centre and scale of these."""
        x = self.draw(n)
        y = self.flow.forward(anchor, x)[0]
        if not self.scheme.standardize:
            return x, y, y.new_zeros(self.d), y.new_ones(())
        centre = y.mean(0)
        return x, y, centre, (y - centre).square().mean().sqrt()

    @torch.no_grad()
    def _fit_dual(self, theta, pool):
        """Inner loop: (64), (66), on the displacements (T_theta - T_k) / epsilon."""
        x, y, centre, scale = pool
        points = self._batches((y - centre) / scale)
        targets = self._batches((self.flow.forward(theta, x)[0] - y) / self.epsilon)
        losses = []
        for i in range(self.scheme.n_inner):
            j = i % len(points)
            losses.append(self.bound.descend(points[j], targets[j]))
            self.adam_inner.descend(self.psi, self.bound.slope, self.scheme.lr_inner)
        return losses

    def _batches(self, rows):
        """Rows (B n, d) as B batches in columns (B, d, n)."""
        batches = rows.to(self.psi.dtype).view(-1, self.n_inner, self.d)
        return batches.transpose(1, 2).contiguous()

    def _slope(self, anchor, theta, h, pool):
        """The derivative in theta of (45) / (2 epsilon): (65), (67).

        Divided by epsilon it keeps its size along the march, and Adam's memory its meaning.
        """
        x, (_, _, centre, scale) = self.draw(self.n_outer), pool
        with torch.no_grad():
            y = (self.flow.forward(anchor, x)[0] - centre) / scale
            pull = self.epsilon * self.bound.gradient(y.T.to(self.psi.dtype)).T.to(x.dtype)
        if self.scheme.gradient == "score":
            at, force = self.force(theta, x)
            return at.vjp((pull + h * force) / (self.epsilon * len(x)))[0]
        with torch.enable_grad():
            theta = theta.detach().requires_grad_()
            y, log_det = self.flow.forward(theta, x)
            energy = self.equation.potential(y) - self.equation.beta * log_det
            loss = ((pull * y).sum(1) + h * energy).mean()
            return torch.autograd.grad(loss / self.epsilon, theta)[0]


class _Adam:
    """Adam on one flat vector, in place: torch.optim costs more than an inner step."""

    def __init__(self, like: Tensor, betas: tuple[float, float]):
        self.betas, self.mean, self.square = betas, torch.zeros_like(like), torch.zeros_like(like)
        self.count = 0

    def reset(self):
        self.mean.zero_()
        self.square.zero_()
        self.count = 0

    @torch.no_grad()
    def descend(self, parameters: Tensor, slope: Tensor, rate: float):
        (b1, b2), self.count = self.betas, self.count + 1
        self.mean.lerp_(slope, 1 - b1)
        self.square.mul_(b2).addcmul_(slope, slope, value=1 - b2)
        size = self.square.sqrt().mul_(1 / math.sqrt(1 - b2**self.count)).add_(1e-8)
        parameters.addcdiv_(self.mean, size, value=-rate / (1 - b1**self.count))
