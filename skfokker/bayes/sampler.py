"""One call from a log-posterior to a Posterior: Laplace, preconditioning, equilibrium, weights."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.utils._param_validation import Interval, StrOptions
from torch.distributions import Distribution

from ..cloning import CloneMixin
from ..flows import AffineFlow, Composition, ElementwiseFlow, Flow, ScaleFlow, TriangularFlow
from ..initial import Gaussian
from ..potentials import Potential
from ..potentials.checks import check_answers
from ..schemes.base import Scheme
from ..seeded import Seeded
from ..validation import SuggestingMixin, torch_generator
from .constraints import Blocks, ConstrainedPotential
from .equilibrium import FreeEnergyDescent
from .laplace import Laplace, laplace
from .log_density import PyMCLogDensity, Wall, as_log_density
from .mixture_law import DefensiveLaw, best_share, laplace_mixture
from .posterior import Posterior
from .precondition import Preconditioner
from .separable import coordinate_draws, is_separable, separable_flow
from .support import UnboundedDensityError, with_support


def posterior_flow(d: int) -> Flow:
    """Exponential scales, splines, triangular maps in both orders, splines, an affine map."""
    n_hidden = int(min(max(32, 4 * d), 128))
    return Composition(
        [
            ScaleFlow(),
            ElementwiseFlow(n_intervals=12),
            TriangularFlow(n_hidden=n_hidden),
            TriangularFlow(n_hidden=n_hidden, reverse=True),
            ElementwiseFlow(n_intervals=12),
            AffineFlow(),
        ]
    )


class PosteriorSampler(SuggestingMixin, CloneMixin, BaseEstimator):
    r"""Fits a flow to a posterior; every stage can be looked at afterwards.

    1. ``laplace``: modes by L-BFGS, a Gaussian over them.
    2. Precondition: working coordinates u with x = mean + L u, in which that Gaussian is N(0, I).
    3. ``ParametricFokkerPlanck`` with beta = 1 from there to equilibrium. Where the log density is
       a sum over coordinates, from a law fitted to their quantiles, which quadrature gives. Where
       the search has found several modes, from a law fitted to draws of their Gaussians; where
       these alone have an ESS/n above 0.9 no flow is fitted.
    4. :meth:`posterior`: draws, weights and diagnostics in the coordinates of the user.

    Parameters
    ----------
    flow : Flow, optional
        None takes :func:`posterior_flow`.
    scheme : Scheme, optional
        How equilibrium is reached. None is ``FreeEnergyDescent(tolerance)``. With any other scheme
        (``LeastSquaresNested``) the march is made in time, to ``t_final="equilibrium"``.
    start : "laplace", (mean, covariance) or Gaussian, default="laplace"
        Of a Gaussian given here the fit knows no other modes than those it covers; a search about
        it, near and far, only lets the report say which were lost.
    n_starts : int, default=8
        Starts of the search for modes.
    spread : float, default=2
        Their standard deviation.
    tolerance : float, default=1e-3
        Fall of the free energy, in nats, below which it counts as at rest.
    inflate : float, default=1
        Factor of the standard deviations of the start.
    random_state : int, RandomState instance or None, default=None
    verbose : int, default=0
        As for the estimator.

    Attributes
    ----------
    estimator_ : ParametricFokkerPlanck or None
        In the working coordinates; None where the Gaussians of ``laplace_`` are the law.
    separable_ : bool
        Whether the log density was found to be a sum over coordinates.
    laplace_ : Laplace or None
        Where the march starts; None where ``start`` was given.
    search_ : Laplace or None
        The modes that the report knows of.
    preconditioner_ : Preconditioner
    potential_ : Potential
        V in the unconstrained coordinates x.
    blocks_ : Blocks, PyMCLogDensity or None
        Names and shapes.
    seconds_ : dict of str to float
        Wall time of every stage.
    n_features_in_ : int
    """

    _parameter_constraints: dict = {
        "flow": [Flow, None],
        "scheme": [Scheme, None],
        "start": [StrOptions({"laplace"}), tuple, Gaussian],
        "n_starts": [Interval(Integral, 1, None, closed="left")],
        "spread": [Interval(Real, 0, None, closed="neither")],
        "tolerance": [Interval(Real, 0, None, closed="neither")],
        "inflate": [Interval(Real, 0, None, closed="neither")],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        flow: Flow | None = None,
        scheme: Scheme | None = None,
        *,
        start: Any = "laplace",
        n_starts: int = 8,
        spread: float = 2.0,
        tolerance: float = 1e-3,
        inflate: float = 1.0,
        random_state: Any = None,
        verbose: int = 0,
    ):
        self.flow = flow
        self.scheme = scheme
        self.start = start
        self.n_starts = n_starts
        self.spread = spread
        self.tolerance = tolerance
        self.inflate = inflate
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self,
        log_density: Any,
        n_features: int | None = None,
        *,
        constraints: Mapping[str, Any] | None = None,
        starts: Any = None,
    ) -> PosteriorSampler:
        """Fit to a posterior, normalised or not.

        Parameters
        ----------
        log_density : callable, Potential, Distribution, pymc.Model or BridgeStan-like object
            See :func:`as_log_density`. With ``constraints`` a callable gets a dict of tensors
            (n, *shape) of constrained values, and must not contain the Jacobian.
        n_features : int, optional
            d, where nothing else says it.
        constraints : mapping, optional
            See :class:`Blocks`.
        starts : array-like (k, d) or dict of arrays (k, *shape), optional
            Where the search for modes starts; a dict holds constrained values.

        Raises
        ------
        ValueError
            Where the log density is -inf or NaN at every start.
        """
        from ..estimator import ParametricFokkerPlanck

        self._validate_params()
        clock = _Clock()
        self.potential_, self.blocks_ = self._read(log_density, n_features, constraints)
        d = self.n_features_in_ = self.potential_.n_features_in_
        if starts is None and isinstance(self.potential_, PyMCLogDensity):
            starts = self._around(self.potential_.start)
        elif isinstance(starts, Mapping):
            if not isinstance(self.blocks_, Blocks):
                raise ValueError(
                    "starts is a dict of constrained values, but no constraints were given; pass "
                    "an array (k, d)."
                )
            starts = self.blocks_.free(starts).numpy()
        check_answers(self.potential_)
        self.potential_ = with_support(self.potential_, self._somewhere(d, starts))
        mean, root = self._start(d, starts)
        clock.lap("laplace")
        width = torch.from_numpy(root).square().sum(1).sqrt()
        self.separable_ = is_separable(self.potential_, self._everywhere(mean, root))
        if self.separable_:  # a full root would couple what V leaves alone
            root = np.diag(width.numpy())
        self.preconditioner_ = Preconditioner(mean, root)
        self.estimator_ = None
        if self.flow is None and not self.separable_ and self._gaussians_do():
            clock.lap("fit")
            self.seconds_ = clock.laps
            return self
        scheme = FreeEnergyDescent(self.tolerance) if self.scheme is None else clone(self.scheme)
        flow = separable_flow() if self.separable_ else posterior_flow(d)
        estimator = ParametricFokkerPlanck(
            flow if self.flow is None else clone(self.flow),
            scheme,
            initial=self._initial(),
            random_state=self.random_state,
            verbose=self.verbose,
        )
        inner = self.preconditioner_.potential(self.potential_)
        centre = self.preconditioner_.potential(self.potential_).to_u(self._inside(mean, root))
        walled = Wall(inner, centre[0].numpy())
        if isinstance(scheme, FreeEnergyDescent):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                self.estimator_ = estimator.fit(walled, t_final=1.0)
        else:
            estimator.set_params(tol=max(self.tolerance, 1e-3))
            self.estimator_ = estimator.fit(walled, t_final="equilibrium")
        clock.lap("fit")
        self.seconds_ = clock.laps
        return self

    def law(self) -> Distribution:
        """The fitted law in the unconstrained coordinates x, as a torch distribution."""
        if self.estimator_ is None:
            return laplace_mixture(self.laplace_)
        return self.preconditioner_.law(self.estimator_.at())

    def posterior(
        self,
        n_draws: int = 4000,
        *,
        defensive: float | None = None,
        random_state: Any = None,
    ) -> Posterior:
        """Weighted draws from the fitted law, and what can be said of them.

        Parameters
        ----------
        n_draws : int
        defensive : float, optional
            Share of the draws taken from the Gaussians of ``laplace_`` in the place of the fit, so
            that no mode which the search has found is without draws. None: where several modes
            count (one per cent of the mass each) what :func:`best_share` finds, else 0. At 1 the
            Gaussians are all of the law.
        random_state : int, RandomState instance or None
            None takes that of the sampler.
        """
        before = time.perf_counter()
        law = self.law()
        if self.estimator_ is not None and self.laplace_ is not None:
            safe = laplace_mixture(self.laplace_)
            if defensive is None:
                apart = self._several_modes() and not self.separable_
                defensive = self._pilot(lambda: best_share(self.potential_, law, safe)) * apart
            if defensive:
                law = safe if defensive == 1 else DefensiveLaw(law, safe, defensive)
        posterior = Posterior(
            self.potential_,
            law,
            n_draws,
            blocks=self.blocks_,
            random_state=self.random_state if random_state is None else random_state,
            laplace=self.search_,
        )
        self.seconds_["draws"] = time.perf_counter() - before
        return posterior

    # ------------------------------------------------------------------ inside

    def _read(self, log_density, n_features, constraints) -> tuple[Potential, Any]:
        if constraints is None:
            potential = as_log_density(log_density, n_features)
            return potential, potential if hasattr(potential, "constrain") else None
        blocks = Blocks(constraints)
        if n_features not in (None, blocks.n_features):
            raise ValueError(
                f"n_features={n_features} contradicts constraints, whose unconstrained space has "
                f"dimension {blocks.n_features}; leave n_features out."
            )
        if not callable(log_density):
            raise TypeError(
                "With constraints, log_density must be a callable from a dict of tensors to (n,), "
                f"got a {type(log_density).__name__}; models of PyMC and Stan bring constraints of "
                "their own."
            )
        return ConstrainedPotential(log_density, blocks), blocks

    def _around(self, point: np.ndarray) -> np.ndarray:
        """Starts about a point, itself first."""
        rng = np.random.default_rng(0)
        noise = rng.normal(size=(self.n_starts, len(point))) * self.spread
        noise[0] = 0
        return point + noise

    def _start(self, d: int, starts: Any) -> tuple[np.ndarray, np.ndarray]:
        """Mean (d,) and root (d, d) of the Gaussian that the march starts from."""
        self.laplace_ = self.search_ = None
        if self.start == "laplace":
            self.laplace_ = laplace(
                self.potential_,
                d,
                starts=starts,
                n_starts=self.n_starts,
                spread=self.spread,
                random_state=self.random_state,
            )
            self.search_ = self.laplace_
            gaussian = self.laplace_.gaussian(self.inflate)
        else:
            gaussian = self.start if isinstance(self.start, Gaussian) else Gaussian(*self.start)
        mean, root = gaussian.moments(d)
        if self.search_ is None:
            self.search_ = self._look_around(mean, root, starts)
        return mean.numpy(), root.numpy()

    def _somewhere(self, d: int, starts: Any) -> np.ndarray:
        """Points (n, d) to look at first, those of the search among them."""
        points = self.spread * np.random.default_rng(1).normal(size=(64, d))
        if self.start != "laplace":
            gaussian = self.start if isinstance(self.start, Gaussian) else Gaussian(*self.start)
            mean, root = (a.numpy() for a in gaussian.moments(d))
            points = np.concatenate([mean[None], mean + points @ root.T])
        if starts is not None:
            given = np.array(starts, dtype=float).reshape(-1, d)
            points = np.concatenate([given, given.mean(0) + points])
        return points

    def _everywhere(self, mean: np.ndarray, root: np.ndarray) -> np.ndarray:
        """Points (512, d) about the start and in all the modes known, twice as wide as these."""
        rng = np.random.default_rng(0)
        points = mean + 2 * rng.normal(size=(512, len(mean))) @ root.T
        if self.search_ is not None:
            k = len(self.search_.modes)
            modes = rng.integers(k, size=256)
            noise = 2 * rng.normal(size=(256, len(mean)))
            near = np.einsum("nij,nj->ni", self.search_.roots[modes], noise)
            points[:256] = self.search_.modes[modes] + near
        return points

    def _look_around(self, mean: torch.Tensor, root: torch.Tensor, starts: Any) -> Laplace | None:
        """Modes about a Gaussian start, from 1 to 25 times its width; None where none is found."""
        if starts is None:
            rng = np.random.default_rng(0)
            reach = self.spread * np.resize([1.0, 5.0, 25.0], (3 * self.n_starts, 1))
            noise = rng.normal(size=(3 * self.n_starts, len(mean)))
            starts = mean.numpy() + (reach * noise) @ root.numpy().T
        try:
            return laplace(self.potential_, starts=starts, random_state=self.random_state)
        except UnboundedDensityError:
            raise
        except ValueError:
            return None

    def _several_modes(self) -> bool:
        """Whether more than one true mode counts: a centre of indefinite curvature is none."""
        if self.laplace_ is None:
            return False
        counts = (self.laplace_.shares > 0.01) & self.laplace_.positive_definite
        return int(counts.sum()) > 1

    def _initial(self) -> Any:
        """The start in working coordinates: N(0, I), or draws over the modes where several count.

        Descent of the free energy never finds a mode that its start gives no mass; a start fitted
        to draws by maximum likelihood covers them all.
        """
        if self.separable_ and self.laplace_ is not None:
            mean, width = self.preconditioner_.mean, self.preconditioner_.root.diagonal()
            x = coordinate_draws(self.potential_, mean, width, 4096, seed=0)
            return (x - mean.numpy()) / width.numpy()
        if self.laplace_ is None or not self._several_modes():
            return None
        draws = torch.from_numpy(self.laplace_.sample(4096, self.random_state))
        mean, root = self.preconditioner_.mean, self.preconditioner_.root
        return torch.linalg.solve_triangular(root, (draws - mean).T, upper=False).T.numpy()

    def _pilot(self, work: Callable[[], float]) -> float:
        """Work that draws from torch distributions, on a seed of its own."""
        with torch.no_grad(), Seeded(torch_generator(self.random_state, 2002).initial_seed()):
            return work()

    def _gaussians_do(self) -> bool:
        """Whether several modes are so Gaussian that no flow has to be fitted."""
        if not self._several_modes():
            return False
        safe = laplace_mixture(self.laplace_)

        def efficiency() -> float:
            x = safe.sample((2000,))
            log_ratios = (-self.potential_(x) - safe.log_prob(x)).nan_to_num(nan=-torch.inf)
            weights = (log_ratios - log_ratios.max()).exp()
            return float(weights.mean().square() / weights.square().mean())

        return self._pilot(efficiency) > 0.9

    def _inside(self, mean: np.ndarray, root: np.ndarray) -> torch.Tensor:
        """A point of finite log density (1, d) near the middle of the start."""
        points = torch.from_numpy(mean)[None]
        if self.laplace_ is not None:
            points = torch.cat([points, torch.from_numpy(self.laplace_.modes)])
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(256, len(mean), generator=generator, dtype=torch.float64)
        points = torch.cat([points, torch.from_numpy(mean) + noise @ torch.from_numpy(root).T])
        value = self.potential_(points).detach()
        inside = torch.isfinite(value).nonzero()
        if not len(inside):
            raise ValueError(
                "The log density is -inf or NaN everywhere around the start; give start=(mean, "
                "covariance) inside the support, or constraints=."
            )
        return points[inside[0]]


def sample_posterior(
    log_density: Any,
    n_features: int | None = None,
    *,
    constraints: Mapping[str, Any] | None = None,
    starts: Any = None,
    n_draws: int = 4000,
    random_state: Any = None,
    **settings: Any,
) -> Posterior:
    """Weighted draws of a posterior, from its log density alone.

    Parameters
    ----------
    log_density, n_features, constraints, starts
        As for :meth:`PosteriorSampler.fit`.
    n_draws : int
    random_state : int, RandomState instance or None
    **settings
        Of :class:`PosteriorSampler`.

    Returns
    -------
    Posterior
        ``print`` it first.

    Examples
    --------
    >>> import torch
    >>> from torch.distributions import Normal, constraints
    >>> from skfokker.bayes import sample_posterior
    >>> y = torch.tensor([49.0, 51.5, 50.2, 48.8]).double()
    >>> def log_density(p):
    ...     prior = Normal(0.0, 100.0).log_prob(p["mean"]) - p["sd"] / 10
    ...     return prior + Normal(p["mean"][:, None], p["sd"][:, None]).log_prob(y).sum(1)
    >>> posterior = sample_posterior(
    ...     log_density,
    ...     constraints={"mean": constraints.real, "sd": constraints.positive},
    ...     random_state=0,
    ...     tolerance=0.01,
    ... )
    >>> posterior.reliable, round(float(posterior.mean()["mean"]))
    (True, 50)
    """
    sampler = PosteriorSampler(random_state=random_state, **settings)
    sampler.fit(log_density, n_features, constraints=constraints, starts=starts)
    return sampler.posterior(n_draws)


class _Clock:
    """Wall times of stages."""

    def __init__(self):
        self.last, self.laps = time.perf_counter(), {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self.last = now - self.last, now
