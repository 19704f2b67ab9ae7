r"""The Fokker-Planck equation with any drift, diffusion and interaction.

    d rho/dt = -div(rho b) + sum_ij d_i d_j (D_ij rho) = -div(rho v) ,
    v = b - div D - D grad log rho ,

b = -grad V + force - E[grad W(x - X')], D = sigma sigma^T / 2 (Ito). Nothing but the weighted
residual needs an inverse of D. In a porous medium rho^m diffuses in the place of rho,

    v = b - D m rho^(m-1) grad log rho :

as if D were larger where the law is dense.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..divergence import divergence
from ..equation import log_normal
from .diffusion import Diffusion
from .drift import Drift, Interaction
from .lipschitz import Lipschitz
from .terms import not_finite

if TYPE_CHECKING:
    from .coordinates import ChangedDrift

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
    linear : bool
        Whether drift and force between particles are linear.
    porous : float, optional
        m; D is then the same everywhere.
    """

    has_energy = False
    has_walls = False
    charge = 1.0

    def __init__(
        self,
        drift: Drift | ChangedDrift,
        diffusion: Diffusion,
        interaction: Interaction | None = None,
        *,
        separable: bool = False,
        interacts: Any = None,
        regular: bool = True,
        linear: bool = False,
        porous: float | None = None,
    ):
        self.terms = drift, diffusion, interaction
        self.d, self.separable, self.interacts = drift.d, separable, interacts
        self.regular, self.linear = regular, linear
        self.lipschitz: Lipschitz | None = None
        self.porous = porous
        self.time = 0.0
        self._crowd: Tensor | None = None
        self._round: tuple[Tensor, Tensor] | None = None

    def seen(self, structure: Any) -> GeneralFokkerPlanck:
        """The same with what was seen of its structure."""
        out = GeneralFokkerPlanck(
            *self.terms,
            separable=structure.separable,
            interacts=structure.interacts,
            regular=self.regular,
            linear=structure.quadratic,
            porous=self.porous,
        )
        out.lipschitz = self.lipschitz
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
        return out if self.porous is None else self.porous * out

    @property
    def steady(self) -> bool:
        """Whether nothing in it depends on time, nor on the law."""
        drift, diffusion, _ = self.terms
        return drift.steady and diffusion.steady and not self.mean_field

    @property
    def autonomous(self) -> bool:
        """Whether none of its functions is one of time."""
        drift, diffusion, interaction = self.terms
        pairs = interaction is None or interaction.steady
        return drift.steady and diffusion.steady and pairs

    @property
    def mean_field(self) -> bool:
        """Whether the drift depends on the law."""
        return self.terms[2] is not None

    @property
    def diagonal(self) -> bool:
        """Whether D is diagonal."""
        return self.terms[1].diagonal

    @property
    def homogeneous(self) -> bool:
        """Whether D is the same at all points."""
        return self.terms[1].constant

    # ------------------------------------------------------------ where it is

    def move_to(self, t: float, crowd=None) -> None:
        """Set the time, and the law whose mean field acts, by n points (n, d) of it."""
        self.time = float(t)
        if self.mean_field and crowd is not None:
            points = crowd(_CROWD)
            # where it is linear the mean force is that of the mean
            self._crowd = points.mean(0, keepdim=True) if self.linear else points
        if self.porous is not None and crowd is not None:
            points = crowd(_CROWD)
            gap = points - points.mean(0)
            covariance = gap.T @ gap / len(gap)  # of few particles, perhaps
            ridge = 1e-3 * covariance.diagonal().mean() * torch.eye(self.d).to(gap)
            self._round = points.mean(0), torch.linalg.cholesky(covariance + ridge)

    # ------------------------------------------------------------ what it does

    def drift(self, x: Tensor) -> Tensor:
        """See :class:`skfokker.equation.FokkerPlanck`, as for all that follow."""
        value = self.raw_drift(x)
        if not torch.isfinite(value).all():
            where = self.terms[0].where(x)
            raise not_finite(value, where, self.time, self._blame(where))
        return value

    def raw_drift(self, x: Tensor) -> Tensor:
        """b with the mean field, finite or not."""
        drift, _, interaction = self.terms
        value = drift(x, self.time)
        if interaction is not None and self._crowd is not None:
            crowd = self._crowd
            n = min(len(crowd), max(_FEWEST, _PAIRS // max(1, len(x))))
            value = value + interaction.force(x, crowd[:n].to(x), self.time)
        return value

    def _blame(self, x: Tensor) -> str:
        """The function that is not finite at x."""
        for term in self.terms[0].terms:
            if not torch.isfinite(term(x, self.time)).all():
                return term.name
        return "the gradient of the potential"

    def crowding(self, x: Tensor, log_density: Tensor | None = None) -> Tensor:
        """rho^(m-1) (n,), from the log density or from a Gaussian with the moments of the law."""
        assert self.porous is not None
        if log_density is None:
            assert self._round is not None
            mean, root = self._round
            z = torch.linalg.solve_triangular(root, (x - mean).T, upper=False).T
            log_density = log_normal(z) - root.diagonal().log().sum()
        return ((self.porous - 1) * log_density).exp()

    def noise(self, x: Tensor, xi: Tensor) -> Tensor:
        value = self.terms[1].noise(x, self.time, xi)
        return value if self.porous is None else self.crowding(x).sqrt()[:, None] * value

    def pull(self, x: Tensor) -> Tensor:
        return self.terms[1].divergence(x, self.time) - self.drift(x)

    def spread(self, x: Tensor, v: Tensor, log_density: Tensor | None = None) -> Tensor:
        value = self.terms[1].apply(x, self.time, v)
        if self.porous is None:
            return value
        return self.porous * self.crowding(x, log_density)[:, None] * value

    def spread_along(self, x: Tensor, log_density: Tensor | None = None) -> Tensor:
        value = self.terms[1].along(x, self.time)
        if self.porous is None:
            return value
        return self.porous * self.crowding(x, log_density)[:, None] * value

    def at_points(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(x[:, 0]), self.pull(x)

    def at_nodes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        bend = self.terms[1].divergence(x, self.time)
        return torch.zeros_like(x[:, 0]), bend - self.raw_drift(x)

    def driving_force(self, y: Tensor, score: Tensor, log_density: Tensor | None = None) -> Tensor:
        return self.pull(y) + self.spread(y, score, log_density)

    def charged(self, y: Tensor, residual: Tensor) -> Tensor:
        """D^{-1/2} r: its square is r . D^{-1} r; NaN where D has no inverse, or is none."""
        if not self.regular or self.porous is not None:
            return torch.full_like(residual, torch.nan)
        return self.terms[1].charged(y, self.time, residual)

    def balance(
        self,
        y: Tensor,
        pull: Tensor,
        score: Tensor,
        curvature: Tensor,
        step: Tensor,
        groups: Sequence[Tensor],
        generator: torch.Generator | None = None,
        log_density: Tensor | None = None,
    ) -> Tensor:
        """As of :class:`skfokker.equation.FokkerPlanck`; for diagonal D."""
        if not self.diagonal:
            raise ValueError("balance needs a diagonal D: take differences of the driving force.")
        bend = divergence(self.pull, y, step, groups, generator)
        along = pull + self.terms[1].divergence(y, self.time)
        # the divergence of rho^(m-1) s is rho^(m-1) (div s + (m - 1) |s|^2)
        m = 1.0 if self.porous is None else self.porous
        second = (self.spread_along(y, log_density) * (curvature + m * score.square())).sum(1)
        return bend + (along * score).sum(1) + second

    # ------------------------------------------------------------ how errors grow

    def growth_rate(self, t: float) -> float | None:
        """l + L of :mod:`skfokker.mean_field`; None where nothing says it, or the noise depends on
        place or density."""
        if self.lipschitz is None or not self.terms[1].constant or self.porous is not None:
            return None
        slope = self.lipschitz.of_drift
        if slope is None:
            if not self.linear:
                return None
            zero = torch.zeros(self.d, dtype=torch.float64)
            A = self.linear_terms(t, zero, torch.ones_like(zero))[0]
            slope = float(torch.linalg.eigvalsh((A + A.T) / 2)[-1])
        return slope + self.lipschitz.of_interaction

    def least_noise(self, t: float) -> float:
        """The smallest eigenvalue of a D that is the same everywhere."""
        zero = torch.zeros(1, self.d, dtype=torch.float64)
        values = torch.linalg.eigvalsh(self.terms[1].matrix(zero, t)[0])
        return max(float(values[0]), 0.0) if self.regular else 0.0

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

        A, value = slopes(lambda moves: drift(at + moves, t))
        if not (torch.isfinite(A).all() and torch.isfinite(value).all()):
            self.time = float(t)
            x = drift.where(at[None])
            raise not_finite(torch.full_like(x, torch.nan), x, t, self._blame(x))
        K = torch.zeros_like(A)
        if interaction is not None:
            K = slopes(lambda moves: interaction.slope(moves, t))[0]
        return A, value, K, diffusion.matrix(at[None], t)[0]
