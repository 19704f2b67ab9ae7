r"""The Fokker-Planck equation with any drift, diffusion and interaction.

    d rho/dt = -div(rho b) + sum_ij d_i d_j (D_ij rho) = -div(rho v) ,
    v = b - div D - D grad log rho ,

b = -grad V + force - E[grad W(x - X')], D = sigma sigma^T / 2 (Ito). Nothing but the weighted
residual needs an inverse of D.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..divergence import divergence
from ..flows.frame import Frame
from .diffusion import Diffusion
from .drift import Drift, Interaction
from .terms import not_finite

_CROWD = 1024  # points that stand for the law in an interaction
_FEWEST, _PAIRS = 256, 2**20


class GeneralFokkerPlanck:
    """An equation as schemes and certificates see it; see :class:`skfokker.equation.FokkerPlanck`.

    Parameters
    ----------
    drift : Drift
    diffusion : Diffusion
    interaction : Interaction, optional
    separable, interacts
        As of :class:`~skfokker.equation.FokkerPlanck`.
    regular : bool
        Whether D has an inverse wherever it was looked at.
    lipschitz : float, optional
        L with |F[mu](x) - F[nu](x)| <= L TV(mu, nu), in the norm of D^{-1}, for the mean field F.
    frame : Frame, optional
        The coordinates z of a march, x = mean + root z, of an equation given in x.
    linear : bool
        Whether drift and force between particles are linear.
    """

    has_energy = False
    has_walls = False
    charge = 1.0

    def __init__(
        self,
        drift: Drift,
        diffusion: Diffusion,
        interaction: Interaction | None = None,
        *,
        separable: bool = False,
        interacts: Any = None,
        regular: bool = True,
        lipschitz: float | None = None,
        frame: Frame | None = None,
        linear: bool = False,
    ):
        self.terms = drift, diffusion, interaction
        self.d, self.separable, self.interacts = drift.d, separable, interacts
        self.regular, self.lipschitz, self.frame = regular, lipschitz, frame
        self.linear = linear
        self.time, self._crowd = 0.0, None
        if frame is not None:
            root = torch.as_tensor(np.asarray(frame.root, dtype=float))
            mean = torch.as_tensor(np.asarray(frame.mean, dtype=float)).expand(self.d)
            self._mean, self._root, self._inverse = mean, root, torch.linalg.inv(root)
        self._fixed = self._turned_diffusion()

    def _turned_diffusion(self) -> Diffusion | None:
        """A constant D in the coordinates of the frame; None for any other."""
        diffusion = self.terms[1]
        if self.frame is None:
            return diffusion
        if diffusion.fixed is None:
            return None
        given = diffusion.matrix(torch.zeros(1, self.d, dtype=torch.float64), 0.0)[0]
        turned = self._inverse @ given @ self._inverse.T
        size = turned.diagonal().clamp(min=0.0).sqrt()
        noise = 1e-12 * torch.outer(size, size) + 1e-15 * turned.abs().max()
        turned = torch.where(
            turned.abs() > noise, (turned + turned.T) / 2, torch.zeros(()).to(turned)
        )
        return Diffusion(turned.numpy(), self.d)

    def behind(self, frame: Frame, interacts: np.ndarray, separable: bool) -> GeneralFokkerPlanck:
        """The same equation in the coordinates of a frame."""
        return GeneralFokkerPlanck(
            *self.terms,
            separable=separable,
            interacts=interacts,
            regular=self.regular,
            lipschitz=self.lipschitz,
            frame=frame,
            linear=self.linear,
        )

    def seen(self, structure: Any) -> GeneralFokkerPlanck:
        """The same with what was seen of its structure."""
        out = self.behind(self.frame, structure.interacts, structure.separable)
        out.linear = structure.quadratic
        return out

    # ------------------------------------------------------------ what it is

    @property
    def n_features_in_(self) -> int:
        """Dimension."""
        return self.d

    def __call__(self, x: Tensor) -> Tensor:
        """Numbers (n,) to recognise the equation by, at points x (n, d)."""
        out = torch.zeros_like(x[:, 0])
        for t in (0.0, 1.0):
            out = out + self.terms[0](x, t).sum(1) + self.terms[1].along(x, t).sum(1)
        return out

    @property
    def steady(self) -> bool:
        """Whether nothing in it depends on time, nor on the law."""
        drift, diffusion, _ = self.terms
        return drift.steady and diffusion.steady and not self.mean_field

    @property
    def mean_field(self) -> bool:
        """Whether the drift depends on the law."""
        return self.terms[2] is not None

    @property
    def diagonal(self) -> bool:
        """Whether D is diagonal in the coordinates in use."""
        if self._fixed is not None:
            return self._fixed.diagonal
        return self.terms[1].kind == "scalar" and self._is_rotated()

    def _is_rotated(self) -> bool:
        return bool(torch.allclose(self._root.T @ self._root, torch.eye(self.d).to(self._root)))

    def to_x(self, z: Tensor) -> Tensor:
        """Points in the coordinates of the user."""
        if self.frame is None:
            return z
        return self._mean.to(z) + z @ self._root.to(z).T

    # ------------------------------------------------------------ where it is

    def move_to(self, t: float, crowd=None) -> None:
        """Set the time, and the law whose mean field acts, by n points (n, d) of it."""
        self.time = float(t)
        if self.mean_field and crowd is not None:
            self._crowd = self.to_x(crowd(_CROWD))
            if self.linear:  # the mean force is that of the mean
                self._crowd = self._crowd.mean(0, keepdim=True)

    # ------------------------------------------------------------ what it does

    def drift(self, x: Tensor) -> Tensor:
        """See :class:`skfokker.equation.FokkerPlanck`, as for all that follow."""
        value = self._drift(x)
        if not torch.isfinite(value).all():
            raise not_finite(value, self.to_x(x), self.time, self._blame(self.to_x(x)))
        return value

    def _drift(self, z: Tensor) -> Tensor:
        """b with the mean field, in the coordinates in use, finite or not."""
        drift, _, interaction = self.terms
        x = self.to_x(z)
        value = drift(x, self.time)
        if interaction is not None and self._crowd is not None:
            crowd = self._crowd
            n = min(len(crowd), max(_FEWEST, _PAIRS // max(1, len(x))))
            value = value + interaction.force(x, crowd[:n].to(x), self.time)
        return value if self.frame is None else value @ self._inverse.to(z).T

    def _blame(self, x: Tensor) -> str:
        """The function that is not finite at x."""
        drift = self.terms[0]
        for term in drift.terms:
            value = term(x, self.time)
            if not torch.isfinite(value).all():
                return term.name
        return "the gradient of the potential"

    def noise(self, z: Tensor, xi: Tensor) -> Tensor:
        if self._fixed is not None:
            return self._fixed.noise(z, self.time, xi)
        value = self.terms[1].noise(self.to_x(z), self.time, xi)
        return value @ self._inverse.to(z).T

    def _divergence(self, z: Tensor) -> Tensor | float:
        if self._fixed is not None:
            return self._fixed.divergence(z, self.time)
        value = self.terms[1].divergence(self.to_x(z), self.time)
        return value if isinstance(value, float) else value @ self._inverse.to(z).T

    def pull(self, z: Tensor) -> Tensor:
        return self._divergence(z) - self.drift(z)

    def spread(self, z: Tensor, v: Tensor) -> Tensor:
        if self._fixed is not None:
            return self._fixed.apply(z, self.time, v)
        inverse = self._inverse.to(z)
        value = self.terms[1].apply(self.to_x(z), self.time, v @ inverse)
        return value @ inverse.T

    def spread_along(self, z: Tensor) -> Tensor:
        if self._fixed is not None:
            return self._fixed.along(z, self.time)
        inverse = self._inverse.to(z)
        value = self.terms[1].matrix(self.to_x(z), self.time)
        return (inverse @ value @ inverse.T).diagonal(dim1=1, dim2=2)

    def at_points(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(z[:, 0]), self.pull(z)

    def at_nodes(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(z[:, 0]), self._divergence(z) - self._drift(z)

    def driving_force(self, y: Tensor, score: Tensor) -> Tensor:
        return self.pull(y) + self.spread(y, score)

    def charged(self, y: Tensor, residual: Tensor) -> Tensor:
        """D^{-1/2} r: its square is r . D^{-1} r; NaN where D has no inverse."""
        if not self.regular:
            return torch.full_like(residual, torch.nan)
        if self._fixed is not None:
            return self._fixed.charged(y, self.time, residual)
        # in the coordinates of the user: r . D^{-1} r is the same in all of them
        return self.terms[1].charged(self.to_x(y), self.time, residual @ self._root.to(y).T)

    def balance(
        self,
        y: Tensor,
        score: Tensor,
        curvature: Tensor,
        step: Tensor,
        groups: Sequence[Tensor],
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """As of :class:`skfokker.equation.FokkerPlanck`; for diagonal D."""
        if not self.diagonal:
            raise ValueError("balance needs a diagonal D: take differences of the driving force.")
        bend = divergence(self.pull, y, step, groups, generator)
        along = self.pull(y) + self._divergence(y)
        second = (self.spread_along(y) * (curvature + score.square())).sum(1)
        return bend + (along * score).sum(1) + second

    # ------------------------------------------------------------ linear equations

    def linear_terms(self, t: float, at: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        """Of a linear equation A, b(at), K and D: b = b(at) + A (x - at) - K (x - E[X]).

        Parameters
        ----------
        t : float
        at : Tensor (d,)
        size : Tensor (d,)
            By how much the coordinates are moved.
        """
        drift, diffusion, interaction = self.terms
        shifts = torch.diag(size)
        zero = torch.zeros_like(at)[None]

        def slopes(field):
            values = field(torch.cat([shifts, -shifts, zero]))
            return (values[: self.d] - values[self.d : -1]).T / (2 * size), values[-1]

        def b(moves):
            value = drift(self.to_x(at + moves), t)
            return value if self.frame is None else value @ self._inverse.to(at).T

        def w(moves):
            frame = self.frame
            r = moves if frame is None else moves @ self._root.to(at).T
            value = interaction.slope(r, t)
            return value if frame is None else value @ self._inverse.to(at).T

        A, value = slopes(b)
        if not (torch.isfinite(A).all() and torch.isfinite(value).all()):
            x = self.to_x(at[None])
            raise not_finite(torch.full_like(x, torch.nan), x, t, self._blame_at(x, t))
        K = torch.zeros_like(A) if interaction is None else slopes(w)[0]
        if self._fixed is not None:
            D = self._fixed.matrix(at[None], t)[0]
        else:
            inverse = self._inverse.to(at)
            D = inverse @ diffusion.matrix(self.to_x(at[None]), t)[0] @ inverse.T
        return A, value, K, D

    def _blame_at(self, x: Tensor, t: float) -> str:
        self.time = float(t)
        return self._blame(x)
