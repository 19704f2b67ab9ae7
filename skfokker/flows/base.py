"""What every map T_theta offers: pure functions of the flat parameter vector and the points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from ..divergence import divergence, spread_out, steps
from ..equation import log_normal


class Flow(BaseEstimator):
    r"""An invertible map :math:`T_\theta : R^d \to R^d`, as pure functions of (theta, x).

    A flow object holds hyper-parameters only (it clones like any scikit-learn component). The
    parameters are one flat vector ``theta`` of length ``n_parameters(d)``, passed to every call,
    so that a trajectory is an array ``(n_times, m)``. The dimension d is read from ``x``.

    A new family has to write :meth:`n_parameters`, :meth:`init`, :meth:`forward` and
    :meth:`inverse`; :meth:`linearize` then works by automatic differentiation. The families
    of this package write it out by hand, layer by layer, for speed.

    Attributes
    ----------
    separable : bool
        True if coordinate i of the output depends on coordinate i of the input only, through
        parameters of its own. The normal equations then split into d small ones.
    affine : bool
        True if the map is affine, so that the law is a Gaussian.
    reserve : bool
        True if a march may leave the map asleep, at the identity, until it needs it.
    chosen : bool
        False if a fit has to choose the functions of the family first.
    placed : bool
        True if its hyper-parameters are places in the units of the user, so that the march has to
        be made in these.
    marched_by_scores : bool
        True if the scores of the parameters are at hand coordinate by coordinate, so that
        :class:`~skfokker.schemes.ScoreDualNested` can march the family.
    moves_otherwise : bool
        True if the velocity that the family gives for its law is not the tangent
        (dT/dtheta) dtheta of its map; see :meth:`law_velocity`.
    closed_form : bool
        True if :meth:`score_and_divergence` and :meth:`log_density_rate` are written out. The
        certificate then asks for them; otherwise it takes differences of the whole residual,
        which has less to cancel.
    """

    separable: bool = False
    affine: bool = False
    reserve: bool = False
    chosen: bool = True
    placed: bool = False
    marched_by_scores: bool = False
    moves_otherwise: bool = False
    closed_form: bool = False

    def n_parameters(self, d: int) -> int:
        """Length m of ``theta`` in dimension d."""
        raise NotImplementedError

    def numbers_per_point(self, d: int) -> int:
        """Numbers that intermediate arrays hold for a point, at most, to bound memory by."""
        return d + self.n_parameters(d)

    def init(self, d: int, generator: torch.Generator | None = None) -> Tensor:
        """Parameters (m,), float64, of the identity map (or of the map closest to it)."""
        raise NotImplementedError

    def starts_at_identity(self, d: int) -> bool:
        """True if :meth:`init` is the identity map exactly, up to rounding."""
        return True

    def forward(self, theta: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map x (n, d) to y (n, d), and log \\|det dT/dx\\| (n,); differentiable in both."""
        raise NotImplementedError

    def inverse(self, theta: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Map y (n, d) back to x (n, d), and log \\|det dT^{-1}/dy\\| (n,)."""
        raise NotImplementedError

    def linearize(self, theta: Tensor, x: Tensor) -> Linearization:
        """T and its derivatives in theta and x at the points x (n, d)."""
        return AutogradLinearization(self, theta, x)

    def law_velocity(self, theta: Tensor, dtheta: Tensor, y: Tensor) -> Tensor:
        """A velocity v (n, d) at points y (n, d) that moves the law as dtheta does.

        With rho_theta the law of T_theta # N(0, I) and rho' its derivative along dtheta, v
        satisfies rho' = -div(rho v). The tangent (dT/dtheta) dtheta does, and is what is given
        here; a family that knows a field closer to a gradient says so by ``moves_otherwise``,
        and overrides this method and :class:`Linearization`'s methods ``law_velocity``,
        ``law_pull_back`` and ``law_jacobian``.
        """
        x = self.inverse(theta, y)[0]
        return self.linearize(theta, x).law_velocity(dtheta)

    def score_and_divergence(self, theta: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """s = grad log rho_theta (n, d) and div s (n,), at points y (n, d).

        div s is the Laplacian of log rho_theta. Here it comes from 2 d differences of the score, 2
        where the map is separable; a family with closed forms overrides this and sets
        ``closed_form``.
        """
        d = y.shape[1]

        def score(y):
            x = self.inverse(theta, y)[0]
            return self.linearize(theta, x).push_score(-x)

        groups = spread_out(d, 1 if self.separable else d)
        return score(y), divergence(score, y, steps(y), groups)

    def score_divergence_and_rate(
        self, theta: Tensor, dtheta: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """:meth:`score_and_divergence` and :meth:`log_density_rate`, where both are wanted."""
        score, divergence = self.score_and_divergence(theta, y)
        return score, divergence, self.log_density_rate(theta, dtheta, y)

    def log_density_rate(self, theta: Tensor, dtheta: Tensor, y: Tensor) -> Tensor:
        """d log rho_theta / dt (n,) at fixed points y (n, d), theta moving with dtheta (m,).

        Here a central difference of log densities, so short that they change by some 1e-5.
        """

        def rate(h):
            (ahead, later), (behind, sooner) = (
                self.inverse(theta + s * h * dtheta, y) for s in (1, -1)
            )
            return (log_normal(ahead) + later - log_normal(behind) - sooner) / (2 * h)

        size = float(dtheta.abs().max()) if len(dtheta) else 0.0
        if size == 0:
            return torch.zeros_like(y[:, 0])
        fastest = float(rate(1e-7 / size).square().mean().sqrt())
        return rate(1e-5 / max(fastest, size))

    def main_part(self, thetas: Tensor, d: int) -> MainPart | None:
        """A smaller family whose law is that of this one but for next to no mass.

        ``thetas`` (k, m) are the parameters of a march; None where nothing can be left out of it.
        """
        return None

    def is_dormant(self, theta: Tensor, d: int) -> bool:
        """True if the map is the identity and its hidden units are free to be chosen."""
        return False

    def with_affine(self, theta: Tensor, mean: Tensor, scale: Tensor) -> Tensor | None:
        """Parameters of ``x -> mean + scale T(x)``, or None where the family lacks that map.

        ``mean`` is (d,), ``scale`` (d, d) lower triangular with a positive diagonal.
        """
        return None


@dataclass(frozen=True)
class MainPart:
    """Most of a family of laws: rho_theta = (1 - p) rho_main + p (the rest), p small.

    Attributes
    ----------
    flow : Flow
        The family of rho_main.
    columns : Tensor (m',)
        Which entries of theta are its parameters.
    left_out : callable
        From parameters (k, m) of the whole to p (k,).
    """

    flow: Flow
    columns: Tensor
    left_out: Callable[[Tensor], Tensor]


class Linearization:
    """Derivatives of one map at fixed (theta, x): what a least-squares step needs.

    Attributes
    ----------
    y : Tensor (n, d)
        The image T(x).
    log_det : Tensor (n,)
        log \\|det dT/dx\\|.
    """

    y: Tensor
    log_det: Tensor

    #: Those of the layers, of a map that has some.
    layers: Sequence[Linearization] = ()

    def grad_log_det(self) -> Tensor:
        """Gradient in x of log \\|det dT/dx\\|, (n, d)."""
        raise NotImplementedError

    def solve(self, v: Tensor) -> Tensor:
        """(dT/dx)^{-1} v for v (n, d)."""
        return torch.linalg.solve(self.by_points(), v)

    def solve_transposed(self, v: Tensor) -> Tensor:
        """(dT/dx)^{-T} v for v (n, d), or for every row of v (n, r, d)."""
        by_x = self.by_points()
        if v.ndim == 3:
            return torch.linalg.solve(by_x, v, left=False)
        return torch.linalg.solve(by_x.mT, v)

    def push_score(self, score: Tensor) -> Tensor:
        """Carry a score (n, d) forward: s_y = (dT/dx)^{-T} (s_x - grad log \\|det dT/dx\\|)."""
        return self.solve_transposed(score - self.grad_log_det())

    def jvp(self, dtheta: Tensor, dx: Tensor | None = None) -> Tensor:
        """Push a tangent forward: (dT/dtheta) dtheta + (dT/dx) dx, shape (n, d)."""
        raise NotImplementedError

    def vjp(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Pull v (n, d) back: (dT/dtheta)^T v summed over points (m,), (dT/dx)^T v (n, d)."""
        raise NotImplementedError

    def jacobian(self, left: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Explicit left @ dT/dtheta (n, r, m) and left @ dT/dx (n, r, d).

        ``left`` is (n, r, d); None stands for the identity (r = d).
        """
        raise NotImplementedError

    def by_points(self) -> Tensor:
        """Explicit dT/dx (n, d, d)."""
        axes = torch.eye(self.y.shape[1]).to(self.y)
        return torch.stack([self.vjp(axis.expand_as(self.y))[1] for axis in axes], 1)

    # the velocity of the law, which may be another field than the tangent of the map

    def law_velocity(self, dtheta: Tensor) -> Tensor:
        """:meth:`Flow.law_velocity` at T(x), (n, d), for x distributed as N(0, I)."""
        return self.jvp(dtheta)

    def law_pull_back(self, v: Tensor) -> Tensor:
        """The adjoint of :meth:`law_velocity` on v (n, d), summed over points: (m,)."""
        return self.vjp(v)[0]

    def law_jacobian(self, left: Tensor | None = None) -> Tensor:
        """Explicit ``left`` @ law velocities (n, r, m) of the unit changes of theta.

        ``left`` as for :meth:`jacobian`.
        """
        return self.jacobian(left)[0]

    def coordinate_jacobian(self) -> Tensor:
        """dT_i/dtheta for the parameters of coordinate i alone, (n, d, p); separable maps only.

        Together with :meth:`coordinate_slope` it is all of the Jacobian of a separable map.
        The p columns of row i are the entries ``coordinate_index(d)[i]`` of theta.
        """
        raise NotImplementedError

    def coordinate_slope(self) -> Tensor:
        """dT_i/dx_i (n, d); separable maps only."""
        raise NotImplementedError

    def coordinate_moments(self, weights: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over points of J_i^T J_i (d, p, p) and J_i^T columns_i (d, p, e), weighted.

        J_i is row i of :meth:`coordinate_jacobian`; weights (n, d), columns (n, d, e). Maps of
        many parameters a coordinate may know a shorter way than through that array.
        """
        by_theta = self.coordinate_jacobian().transpose(0, 1)  # (d, n, p)
        weighted = (by_theta * weights.T[:, :, None]).mT
        return weighted @ by_theta, weighted @ columns.transpose(0, 1)


class AutogradLinearization(Linearization):
    """The same by automatic differentiation, for flows that only have forward and inverse."""

    def __init__(self, flow: Flow, theta: Tensor, x: Tensor):
        self.flow, self.theta, self.x = flow, theta.detach(), x.detach()
        with torch.no_grad():
            self.y, self.log_det = flow.forward(self.theta, self.x)
        self._derivatives = None

    def _map(self, theta, x):
        return self.flow.forward(theta, x)[0]

    def _point(self, theta, x):
        y, log_det = self.flow.forward(theta, x[None])
        return y[0], log_det[0]

    def _by_x(self):
        """dT/dx (n, d, d) and grad log |det dT/dx| (n, d), once."""
        if self._derivatives is None:
            derivative = torch.func.vmap(torch.func.jacrev(self._point, argnums=1), (None, 0))
            self._derivatives = derivative(self.theta, self.x)
        return self._derivatives

    def grad_log_det(self):
        return self._by_x()[1]

    def solve(self, v):
        return torch.linalg.solve(self._by_x()[0], v)

    def solve_transposed(self, v):
        if v.ndim == 3:
            return torch.linalg.solve(self._by_x()[0], v, left=False)
        return torch.linalg.solve(self._by_x()[0].transpose(1, 2), v)

    def jvp(self, dtheta, dx=None):
        dx = torch.zeros_like(self.x) if dx is None else dx
        return torch.autograd.functional.jvp(self._map, (self.theta, self.x), (dtheta, dx))[1]

    def vjp(self, v):
        return torch.func.vjp(self._map, self.theta, self.x)[1](v)

    def jacobian(self, left=None):
        def rows(theta, x):
            return self._point(theta, x)[0]

        by_theta, by_x = torch.func.vmap(torch.func.jacrev(rows, argnums=(0, 1)), (None, 0))(
            self.theta, self.x
        )
        return (by_theta, by_x) if left is None else (left @ by_theta, left @ by_x)
