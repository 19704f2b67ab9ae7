"""One call from a log-posterior to a Posterior: Laplace, preconditioning, equilibrium, weights."""

from __future__ import annotations

import math
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
from .calls import BudgetSpent, Counted
from .constraints import Blocks, ConstrainedPotential
from .equilibrium import FreeEnergyDescent
from .laplace import Laplace, laplace
from .layers import Layer, LayeredLaw
from .log_density import PyMCLogDensity, Wall, as_log_density
from .mixture_law import DefensiveLaw, best_share, laplace_mixture
from .posterior import Posterior
from .precondition import Preconditioner
from .psis import reliable_k
from .rounds import GOOD_SHARE, Round, fit_layers
from .separable import coordinate_draws, is_separable, separable_flow
from .support import UnboundedDensityError, with_support

_FOR_FIT, _FOR_SEARCH = 0.7, 0.6  # of the budget, and of that
_PILOT = 2000  # draws that judge a law


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
    3. Layers of conditional densities (:func:`~skfokker.bayes.rounds.fit_layers`), until ESS/n is
       above 0.9 and Pareto k below 0.5; none where that Gaussian is as good already. Where pilot
       draws find k above 0.7 or ESS/n below 0.5, or ``flow`` or ``scheme`` is given,
       ``ParametricFokkerPlanck`` with beta = 1 goes to equilibrium, and the better law of the two
       is taken. Where the log density
       is a sum over coordinates it starts from a law fitted to their quantiles, which quadrature
       gives; where the search has found several modes, from a law fitted to draws of their
       Gaussians, and where these alone have an ESS/n above 0.9 nothing is fitted.
    4. :meth:`posterior`: draws, weights and diagnostics in the coordinates of the user.

    Parameters
    ----------
    flow : Flow, optional
        None takes layers of conditional densities, and :func:`posterior_flow` where there is a
        march.
    scheme : Scheme, optional
        How equilibrium is reached. None takes layers where they suffice, and
        ``FreeEnergyDescent(tolerance)`` where not. With any other scheme (``LeastSquaresNested``)
        the march is made in time, to ``t_final="equilibrium"``.
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
    max_calls : int, optional
        Points at which the log density, or its gradient, may be evaluated, those of the draws
        included. At most half of them go into the search for modes, a third is kept for draws.
    max_seconds : float, optional
        Wall time, that of the draws included; kept to within the time of one batch.
    n_jobs : int, default=1
        Processes (joblib) that share the points of a batch; for log densities that take
        milliseconds a point.
    random_state : int, RandomState instance or None, default=None
    verbose : int, default=0
        As for the estimator.

    Attributes
    ----------
    calls_ : Counted
        How often the log density was asked.
    budget_spent_ : bool
        Whether ``max_calls`` or ``max_seconds`` ended the fit.
    estimator_ : ParametricFokkerPlanck or None
        In the working coordinates; None where layers, or the Gaussians of ``laplace_``, do.
    layers_ : list of Layer or None
        Those of the law; None where it has none.
    rounds_ : list of Round
        ESS/n and k of all rounds of layers.
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
        "max_calls": [Interval(Integral, 100, None, closed="left"), None],
        "max_seconds": [Interval(Real, 0, None, closed="neither"), None],
        "n_jobs": [Integral],
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
        max_calls: int | None = None,
        max_seconds: float | None = None,
        n_jobs: int = 1,
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
        self.max_calls = max_calls
        self.max_seconds = max_seconds
        self.n_jobs = n_jobs
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
        self._validate_params()
        clock = _Clock()
        potential, self.blocks_ = self._read(log_density, n_features, constraints)
        d = self.n_features_in_ = potential.n_features_in_
        if starts is None and isinstance(potential, PyMCLogDensity):
            starts = self._around(potential.start)
        elif isinstance(starts, Mapping):
            if not isinstance(self.blocks_, Blocks):
                raise ValueError(
                    "starts is a dict of constrained values, but no constraints were given; pass "
                    "an array (k, d)."
                )
            starts = self.blocks_.free(starts).numpy()
        self.calls_ = Counted(potential, self.n_jobs)
        self.budget_spent_, self._begun = False, time.perf_counter()
        self.estimator_: Any = None
        self.layers_: list[Layer] | None = None
        self.rounds_: list[Round] = []
        calls, seconds = self._budget(_FOR_FIT)
        with self.calls_.allowance(calls, seconds):
            try:
                check_answers(self.calls_)
                self.potential_ = with_support(self.calls_, self._somewhere(d, starts))
                with self.calls_.allowance(calls * _FOR_SEARCH, seconds * _FOR_SEARCH):
                    mean, root = self._start(d, starts)
            except BudgetSpent as error:
                raise ValueError(
                    f"max_calls={self.max_calls}, max_seconds={self.max_seconds} are spent before "
                    f"the search for a mode has ended ({self.calls_}); allow more, give "
                    "start=(mean, covariance), or fewer n_starts."
                ) from error
            clock.lap("laplace")
            try:
                self._fit_law(d, mean, root)
            except BudgetSpent:
                self.budget_spent_ = True
        self.budget_spent_ |= self.calls_.total >= calls or clock.total >= seconds
        clock.lap("fit")
        self.seconds_ = clock.laps
        return self

    def _fit_law(self, d: int, mean: np.ndarray, root: np.ndarray) -> None:
        """The law, in the working coordinates of a Gaussian over all modes."""
        width = torch.from_numpy(root).square().sum(1).sqrt()
        self.preconditioner_, self.separable_ = Preconditioner(mean, root), False
        self.separable_ = is_separable(self.potential_, self._everywhere(mean, root))
        if self.separable_:  # a full root would couple what V leaves alone
            self.preconditioner_ = Preconditioner(mean, np.diag(width.numpy()))
        default = self.flow is None and not self.separable_
        if default and self._gaussians_do():
            return
        inner = self.preconditioner_.potential(self.potential_)
        centre = inner.to_u(self._inside(mean, root))
        walled = Wall(inner, centre[0].numpy())
        if default and self.scheme is None and not self._several_modes():
            seed = torch_generator(self.random_state, 2003).initial_seed() % 2**31
            self.layers_, self.rounds_ = fit_layers(walled, self.calls_, d, seed)
            layered = self._judged(self._layered(), _PILOT)
            if layered.k < reliable_k(_PILOT) and layered.share > 0.5:
                return
        try:
            self.estimator_ = self._march(d, walled)
        except BudgetSpent:
            if self.layers_ is None:
                raise
            self.budget_spent_ = True
        if self.estimator_ is not None and self.layers_ is not None:
            marched = self._judged(self.preconditioner_.law(self.estimator_.at()), _PILOT)
            if layered.share > marched.share:  # k is a noisy estimate
                self.estimator_ = None
            else:
                self.layers_ = None

    def _march(self, d: int, walled: Wall) -> Any:
        """An estimator fitted to equilibrium."""
        from ..estimator import ParametricFokkerPlanck

        scheme = FreeEnergyDescent(self.tolerance) if self.scheme is None else clone(self.scheme)
        flow = separable_flow() if self.separable_ else posterior_flow(d)
        estimator = ParametricFokkerPlanck(
            flow if self.flow is None else clone(self.flow),
            scheme,
            initial=self._initial(),
            random_state=self.random_state,
            verbose=self.verbose,
        )
        if isinstance(scheme, FreeEnergyDescent):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                return estimator.fit(walled, t_final=1.0)
        estimator.set_params(tol=max(self.tolerance, 1e-3))
        return estimator.fit(walled, t_final="equilibrium")

    def _layered(self) -> Distribution:
        """The law of the layers."""
        return LayeredLaw(self.preconditioner_.mean, self.preconditioner_.root, self.layers_ or ())

    def _budget(self, share: float) -> tuple[float, float]:
        """Calls and seconds that are allowed to a part of the work."""
        calls = math.inf if self.max_calls is None else share * self.max_calls
        return calls, math.inf if self.max_seconds is None else share * self.max_seconds

    def law(self) -> Distribution:
        """The fitted law in the unconstrained coordinates x, as a torch distribution."""
        if self.estimator_ is not None:
            return self.preconditioner_.law(self.estimator_.at())
        if self.layers_ is not None or self.laplace_ is None:
            return self._layered()
        return laplace_mixture(self.laplace_)

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
        if (self.estimator_ is not None or self.layers_) and self.laplace_ is not None:
            safe = laplace_mixture(self.laplace_)
            if defensive is None:
                apart = self._several_modes() and not self.separable_
                defensive = 0.0
                if apart:
                    defensive = self._pilot(lambda: best_share(self.potential_, law, safe))
            if defensive:
                law = safe if defensive == 1 else DefensiveLaw(law, safe, defensive)
        posterior = Posterior(
            self.potential_,
            law,
            self._affordable(n_draws),
            blocks=self.blocks_,
            random_state=self.random_state if random_state is None else random_state,
            laplace=self.search_,
            calls=self.calls_,
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

    def _pilot(self, work: Callable[[], Any]) -> Any:
        """Work that draws from torch distributions, on a seed of its own."""
        with torch.no_grad(), Seeded(torch_generator(self.random_state, 2002).initial_seed()):
            return work()

    def _affordable(self, n_draws: int) -> int:
        """As many draws as the budget leaves, 25 at least."""
        calls, seconds = self._budget(1.0)
        left = calls - self.calls_.total
        begun = self._begun + seconds - time.perf_counter()
        if self.calls_.seconds_a_point > 0 and math.isfinite(begun):
            left = min(left, max(begun, 0.0) / self.calls_.seconds_a_point)
        if left < n_draws:
            self.budget_spent_ = True
        return int(max(25, min(n_draws, left)))

    def _judged(self, law: Distribution, n: int) -> Round:
        """ESS / n and k of a law, by pilot draws."""

        def work() -> Round:
            x = law.sample((n,))
            log_ratios = -self.potential_(x) - law.log_prob(x)
            inside = torch.isfinite(log_ratios)
            if not inside.any():
                return Round(0, n, 0.0, math.inf, math.inf)
            return Round.of(torch.where(inside, log_ratios, -torch.inf), 0)

        return self._pilot(work)

    def _gaussians_do(self) -> bool:
        """Whether several modes are so Gaussian that no flow has to be fitted."""
        if not self._several_modes():
            return False
        return self._judged(laplace_mixture(self.laplace_), _PILOT).share > GOOD_SHARE

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
    ...     random_state=1,
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
        self.begun = self.last = time.perf_counter()
        self.laps: dict[str, float] = {}

    @property
    def total(self) -> float:
        return time.perf_counter() - self.begun

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self.last = now - self.last, now
