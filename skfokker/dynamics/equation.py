"""Equation: what a user hands to ``fit`` in the place of a potential."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from ..cloning import CloneMixin
from ..potentials.base import as_dimension
from .support import Support
from .terms import Term


class Equation(CloneMixin, BaseEstimator):
    r"""A Fokker-Planck equation with any drift, diffusion and interaction.

    .. math:: \partial_t \rho = -\nabla \cdot (\rho b) + \sum_{ij} \partial_i \partial_j
              (D_{ij} \rho), \qquad dX = b \, dt + \sigma \, dB, \quad D = \sigma \sigma^T / 2 ,

    in the sense of Ito, with :math:`b = -\nabla V + force - E[\nabla W(x - X')]`, or the ``drift``
    that is given; :meth:`from_sde` takes sigma, also in the sense of Stratonovich.

    All functions get torch tensors: points x (n, d) in float64, and, where they have a second
    argument, the time as a float. They are functions of each row by itself.

    Parameters
    ----------
    potential : callable or Potential, optional
        V(x) or V(x, t), shape (n,), differentiable.
    drift : callable, optional
        b(x) or b(x, t), shape (n, d), in the place of potential and force.
    force : callable, optional
        A field to add to -grad V, as ``drift``.
    diffusion : float, array-like (d,) or (d, d), or callable, optional
        D: a number for D I, the diagonal, or a symmetric positive semi-definite matrix; zeros are
        allowed (a kinetic equation has ``[0, ..., 0, D, ..., D]``). A function D(x) or D(x, t)
        returns (n,), (n, d) or (n, d, d); or (), (d,), (d, d) where it depends on time alone. None
        is ``beta`` of the estimator.
    interaction : callable, optional
        Pair potential W(r) or W(r, t) of differences r = x - x' (n, d), even, shape (n,): the drift
        gains -E[grad W(x - X')] over X' of the law itself (McKean-Vlasov).
    lipschitz : float or (float, float), optional
        L with :math:`|\nabla W(r) - \nabla W(r')| \le L |r - r'|` at all times; with it the
        certificate is a bound (:mod:`skfokker.mean_field`), and none without. The bound needs a
        one-sided constant of the drift as well, l with
        :math:`(x - y) \cdot (b(x) - b(y)) \le l |x - y|^2`: the second number, or that of a linear
        drift, or minus the attribute ``convexity`` of a potential alone.
    porous : float, optional
        m > 1: the diffusion is that of :math:`\rho^m`, :math:`\sum_{ij} D_{ij} \partial_i
        \partial_j \rho^m` with D the same everywhere (the porous medium equation; with a potential
        the gradient flow of :math:`E[V] + \beta \int \rho^m / (m - 1)`). Its laws may have compact
        support, of which a fit has a smooth image with next to no mass outside.
    n_features : int, optional
        Dimension d, where nothing else says it.
    support : (low, high), or array-like (d, 2), optional
        Where coordinates live, if not on the whole line: one pair for all of them, or one for
        each, None for a whole line: ``(0, inf)``, ``[(0, 1), None]``. The equation is solved in
        y = log(x - low) on a half line, y = log((x - low) / (high - x)) on an interval, by Ito's
        formula; the fit is one of x. Noise has to fade at the ends, or the drift to keep
        particles off. A Gaussian ``initial`` is then one of y; distributions and draws are of x.

    Examples
    --------
    A particle in a moving trap, at t = 2:

    >>> import torch
    >>> from skfokker import Equation, ParametricFokkerPlanck
    >>> def trap(x, t):
    ...     return 0.5 * (x - t).square().sum(1)
    >>> equation = Equation(trap, diffusion=0.5, n_features=1)
    >>> model = ParametricFokkerPlanck(random_state=0).fit(equation, t_final=2.0)
    >>> mean = model.inverse_transform([[0.0]], t=2.0)[0, 0]  # 1 + exp(-2)
    >>> round(float(mean), 3)
    1.135
    """

    def __init__(
        self,
        potential: Any = None,
        *,
        drift: Any = None,
        force: Any = None,
        diffusion: Any = None,
        interaction: Any = None,
        lipschitz: Any = None,
        porous: float | None = None,
        n_features: int | None = None,
        support: Any = None,
    ):
        self.potential = potential
        self.drift = drift
        self.force = force
        self.diffusion = diffusion
        self.interaction = interaction
        self.lipschitz = lipschitz
        self.porous = porous
        self.n_features = n_features
        self.support = support

    @classmethod
    def from_sde(
        cls,
        drift: Any,
        noise: Any,
        *,
        convention: str = "ito",
        n_features: int | None = None,
        support: Any = None,
    ) -> Equation:
        r"""The equation of dX = b dt + sigma dB.

        Parameters
        ----------
        drift : callable
            b(x) or b(x, t), shape (n, d).
        noise : float, array-like (d,) or (d, k), or callable
            sigma: a number or the diagonal where every coordinate has noise of its own, or a matrix
            with a column for every one of k noises. A function of x or (x, t) returns (n, d) or
            (n, d, k).
        convention : {"ito", "stratonovich"}
            In the latter :math:`\frac12 \sum_{jk} \sigma_{jk} \partial_j \sigma_{ik}` is added to
            the drift.
        n_features : int, optional
        support : (low, high), or array-like (d, 2), optional
            As of the equation.

        Raises
        ------
        ValueError
            Where ``convention`` is neither.
        """
        if convention not in ("ito", "stratonovich"):
            raise ValueError(f"convention must be 'ito' or 'stratonovich', got {convention!r}.")
        noise = Noise(noise)
        if convention == "stratonovich" and noise.varies:
            drift = Stratonovich(drift, noise)
        diffusion = noise if noise.varies else noise.fixed()
        return cls(drift=drift, diffusion=diffusion, n_features=n_features, support=support)

    def dimension(self, also: Any = None, initial: int | None = None) -> int:
        """d, from ``n_features``, ``also`` (of the estimator), and what has a shape.

        Raises
        ------
        ValueError
            Where nothing says it, or two say different things.
        """
        said = {"n_features of the equation": self.n_features, "n_features of the estimator": also}
        for name in ("potential", "drift"):
            said[f"{name}.n_features_in_"] = getattr(getattr(self, name), "n_features_in_", None)
        if not (callable(self.diffusion) or self.diffusion is None):
            shape = np.shape(self.diffusion)
            said["the shape of diffusion"] = shape[0] if shape else None
        said["the length of support"] = Support.length(self.support)
        known = {name: as_dimension(d, name) for name, d in said.items() if d is not None}
        if not known and initial is not None:
            known["the mean of initial"] = initial
        if not known:
            raise ValueError(
                "the dimension of the equation is unknown: pass n_features=d to Equation or to the "
                "estimator."
            )
        if len(set(known.values())) > 1:
            both = ", ".join(f"{name} says {d}" for name, d in known.items())
            raise ValueError(f"the dimension of the equation is contradictory: {both}.")
        return next(iter(known.values()))

    def read_support(self, d: int) -> Support | None:
        """``support`` in dimension d; None where no coordinate has an end."""
        support = Support.of(self.support, d)
        together = {"interaction": self.interaction, "porous": self.porous}
        for name, other in together.items():
            if support is not None and other is not None:
                raise ValueError(
                    f"support and {name} do not go together: write the equation in coordinates "
                    "y on the whole line, y = log x for instance, and leave support out."
                )
        return support

    def check(self) -> None:
        """See that the arguments go together.

        Raises
        ------
        TypeError, ValueError
        """
        for name in ("drift", "force", "interaction", "potential"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, type) or not callable(value)):
                raise TypeError(f"{name} must be a function of points (n, d), got {value!r}.")
        if self.drift is not None and (self.potential is not None or self.force is not None):
            raise ValueError(
                "drift is all of the drift: give either drift, or potential and force (whose sum "
                "is -grad V + force)."
            )
        if self.lipschitz is not None and self.interaction is None:
            raise ValueError(
                f"lipschitz={self.lipschitz!r} is a constant of the interaction, but there is "
                "none: leave it out."
            )
        if self.porous is not None:
            if not isinstance(self.porous, Real) or isinstance(self.porous, bool):
                raise TypeError(f"porous must be a number m > 1, got {self.porous!r}.")
            if not 1 < self.porous < math.inf:
                raise ValueError(
                    f"porous must be a number m > 1, got {self.porous!r}: m = 1 is the diffusion "
                    "of rho itself (leave porous out), and m < 1 is fast diffusion, which is not "
                    "solved."
                )
            if callable(self.diffusion):
                raise ValueError(
                    "porous is for a diffusion that is the same everywhere at all times, but "
                    "diffusion is a function: give a number, the diagonal or a matrix."
                )
        if all(
            part is None
            for part in (
                self.potential,
                self.drift,
                self.force,
                self.interaction,
                self.diffusion,
                self.porous,
            )
        ):
            raise ValueError(
                "the equation is empty: give it a potential or a drift, or a diffusion alone."
            )


class Noise:
    """D = sigma sigma^T / 2 of a given sigma, as a function of points and time."""

    def __init__(self, sigma: Any):
        self.sigma = sigma
        self.varies = callable(sigma)

    def fixed(self) -> np.ndarray:
        """D of a constant sigma."""
        sigma = np.asarray(self.sigma, dtype=float)
        return sigma @ sigma.T / 2 if sigma.ndim == 2 else sigma**2 / 2

    def at(self, x: Tensor, t: float) -> Tensor:
        """sigma at x (n, d): (n, d), or (n, d, k)."""
        from .terms import takes_time

        value = self.sigma(x, t) if takes_time(self.sigma, "noise") else self.sigma(x)
        if not isinstance(value, Tensor) or value.shape[:2] != x.shape or value.ndim > 3:
            shape = tuple(getattr(value, "shape", ()))
            raise ValueError(
                f"noise must return shape (n, d) or (n, d, k) for points of shape "
                f"{tuple(x.shape)}, got {shape}."
            )
        return value

    def __call__(self, x, t):
        """D (n, d) or (n, d, d)."""
        sigma = self.at(x, t)
        return sigma.square() / 2 if sigma.ndim == 2 else sigma @ sigma.mT / 2


class Stratonovich:
    """The Ito drift b_i + 1/2 sum_jk sigma_jk d_j sigma_ik of a Stratonovich equation."""

    def __init__(self, drift: Any, noise: Noise):
        self.drift, self.noise = drift, noise

    def __call__(self, x, t):
        """(n, d)."""
        b = Term(self.drift, "drift", x.shape[1], ("nd",))(x, t)
        with torch.enable_grad():
            y = x if x.requires_grad else x.detach().clone().requires_grad_()
            sigma = self.noise.at(y, t)
            columns = torch.diag_embed(sigma) if sigma.ndim == 2 else sigma
            extra = []
            for i in range(x.shape[1]):
                total = 0.0
                for k in range(columns.shape[2]):
                    (slope,) = torch.autograd.grad(
                        columns[:, i, k].sum(), y, create_graph=True, materialize_grads=True
                    )
                    total = total + (columns[:, :, k] * slope).sum(1)
                extra.append(total / 2)
            extra = torch.stack(extra, 1)
        return b + (extra if x.requires_grad else extra.detach())
