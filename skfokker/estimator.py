"""ParametricFokkerPlanck: the scikit-learn face of the package and nothing else."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.base import (
    BaseEstimator,
    DensityMixin,
    OneToOneFeatureMixin,
    TransformerMixin,
    clone,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import HasMethods, Interval
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor
from torch.distributions import Distribution

from .certificate import Certificate, certify
from .densities import GaussianDensity, fit_density, potential_of
from .distribution import TransportedNormal
from .equation import FokkerPlanck
from .flows import Flow
from .flows.choice import choose_flow
from .initial import Gaussian, initial_moments, initial_parameters, initial_shape
from .persistence import PersistentMixin
from .potentials import CheckedPotential, Potential, check_potential
from .progress import Progress
from .schemes.base import Scheme, Step
from .schemes.least_squares import LeastSquaresNested
from .structure import Structure, probe
from .tolerance import Effort, diagnose
from .trajectory import Trajectory
from .validation import (
    SuggestingMixin,
    as_horizon,
    as_points,
    as_tensor,
    as_times,
    resolve_device,
    torch_generator,
)

_FIT, _SAMPLE, _CERTIFY = 0, 1, 2  # streams of one seed


class ParametricFokkerPlanck(
    OneToOneFeatureMixin,
    TransformerMixin,
    DensityMixin,
    PersistentMixin,
    SuggestingMixin,
    BaseEstimator,
):
    r"""Samples and densities of the solution of a Fokker-Planck equation at every time.

    Solves :math:`\partial_t \rho = \nabla \cdot (\rho \nabla V) + \beta \Delta \rho` in
    :math:`R^d` from :math:`\rho(0) = \rho_0`, with :math:`\rho(t)` represented as the image of
    N(0, I) under an invertible map :math:`T_{\theta(t)}` whose parameters follow the Wasserstein
    gradient flow of the free energy (equations (5) and (27) of the paper).

    Parameters
    ----------
    flow : Flow, optional
        Family of maps. None picks a composition that suits the dimension and the potential.
    scheme : Scheme, optional
        March of the parameters through time. None is ``LeastSquaresNested()``.
    beta : float, default=1.0
        Diffusion coefficient, positive.
    initial : None, (mean, covariance), Gaussian, Distribution or array-like (n, d)
        The start :math:`\rho_0`. None is N(0, I). Gaussians (torch's included) are met exactly;
        any other distribution, or draws from one, is fitted by maximum likelihood.
    t_final : float, default=1.0
        Horizon, unless ``fit`` is told another one.
    n_features : int, optional
        Dimension d, for potentials that do not say it in an attribute ``n_features_in_``.
    from_samples : estimator, optional
        Density fitted to draws given in the place of the potential; the potential is then
        V = -beta log density. ``GaussianDensity`` (None), scikit-learn's ``GaussianMixture``,
        ``BayesianGaussianMixture`` or ``KernelDensity``, or anything with ``to_potential(beta)``.
    tol : float, default=1e-2
        Certified KL divergence from the exact law, in nats, that is aimed at (see
        ``certificate_``). Where V is a sum over coordinates, the default family or its time steps
        are refined until it is met. Where it cannot be met a ``ConvergenceWarning`` says what
        limits the fit. It does not drive schemes other than ``LeastSquaresNested``.
    device : str, default="cpu"
        Where the work is done. A device that is not there is replaced by the CPU, with a warning.
    random_state : int, RandomState instance or None, default=None
        Seed of the march, and of ``sample`` and ``paths`` where they are given none.
    verbose : int, default=0
        1 shows a progress bar, 2 prints a line a step.
    warm_start : bool, default=False
        Continue a fitted march to a larger ``t_final`` instead of starting anew.

    Attributes
    ----------
    times_ : ndarray (k,)
        Stored times, from 0 to ``t_final_``.
    thetas_, velocities_ : ndarray (k, m)
        Parameters of the flow at ``times_`` and their time derivatives.
    flow_ : Flow
        The family of maps in use.
    scheme_ : Scheme
        The march in use.
    potential_ : Potential
        The potential in use; its ``value_and_grad`` gives V and grad V.
    density_ : estimator
        The fitted ``from_samples`` component; only where draws were given.
    initial_error_ : float
        KL(rho_0 | rho_theta(0)), 0 where the start is met exactly.
    history_ : list of dict
        One record a step: ``t``, ``wall_time`` in seconds, and what the scheme has to say
        (``h``, ``free_energy``, ``residual``, ``iterations``).
    t_final_ : float
        Time reached.
    interrupted_ : bool
        Whether the march was stopped by the keyboard before its horizon.
    certificate_ : object or None
        Bound on the error of the law along time; None until one is computed.
    n_features_in_ : int
        Dimension d.
    feature_names_in_ : ndarray (d,)
        Column names; only where a data frame of draws was given.

    Notes
    -----
    Between stored times theta is the cubic Hermite spline through ``thetas_`` and
    ``velocities_``, so the law, its density and its velocity exist at every t in
    [0, ``t_final_``].

    Methods that take points give back what they are given: numpy arrays (float64) for arrays,
    lists and data frames, and tensors of the same dtype and device for torch tensors, without a
    gradient. For gradients use the distribution that :meth:`at` returns.

    In a pipeline behind a scaler, ``score`` is the log density of the scaled data: the log
    determinant of the scaling is to be added by hand.

    References
    ----------
    S. Liu, W. Li, H. Zha, H. Zhou, "Neural Parametric Fokker-Planck Equations".

    Examples
    --------
    >>> from skfokker import ParametricFokkerPlanck
    >>> from skfokker.potentials import Quadratic
    >>> model = ParametricFokkerPlanck(random_state=0).fit(Quadratic([3.0, 0.0]), t_final=1.0)
    >>> model.sample(1000, t=0.5).shape
    (1000, 2)
    >>> round(float(model.log_density([[3.0, 0.0]], t=1.0)[0]), 2)
    -2.45
    """

    _parameter_constraints: dict = {
        "flow": [Flow, None],
        "scheme": [Scheme, None],
        "beta": [Interval(Real, 0, None, closed="neither")],
        "initial": [None, tuple, Gaussian, Distribution, Tensor, "array-like"],
        "t_final": [Interval(Real, 0, None, closed="neither")],
        "n_features": [Interval(Integral, 1, None, closed="left"), None],
        "from_samples": [HasMethods(["fit"]), None],
        "tol": [Interval(Real, 0, None, closed="neither")],
        "device": [str],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
    }

    def __init__(
        self,
        flow: Flow | None = None,
        scheme: Scheme | None = None,
        *,
        beta: float = 1.0,
        initial: Any = None,
        t_final: float = 1.0,
        n_features: int | None = None,
        from_samples: Any = None,
        tol: float = 1e-2,
        device: str = "cpu",
        random_state: Any = None,
        verbose: int = 0,
        warm_start: bool = False,
    ):
        self.flow = flow
        self.scheme = scheme
        self.beta = beta
        self.initial = initial
        self.t_final = t_final
        self.n_features = n_features
        self.from_samples = from_samples
        self.tol = tol
        self.device = device
        self.random_state = random_state
        self.verbose = verbose
        self.warm_start = warm_start

    # ------------------------------------------------------------------ fitting

    def fit(self, potential, y=None, *, t_final=None, sample_weight=None) -> ParametricFokkerPlanck:
        """Solve the equation from t = 0 to the horizon.

        Parameters
        ----------
        potential : callable, Potential, Distribution or array-like (n, d)
            V: any function of a torch tensor (n, d) that returns (n,), differentiable. A torch
            distribution means V = -beta log_prob. An array is draws from the equilibrium law:
            V = -beta log of the density that ``from_samples`` fits to them.
        y : float or ignored
            A real number is the horizon, as ``t_final``. Anything else is ignored.
        t_final : float, optional
            Horizon, the parameter ``t_final`` where not given.
        sample_weight : array-like (n,), optional
            Weights of draws, for ``from_samples``.

        Raises
        ------
        TypeError, ValueError
            Where an argument is not what is said above, each with a sentence that says so;
            where V or its gradient is not finite (``PotentialError``, at which point and time).
        """
        self._validate_params()
        horizon = as_horizon(y, t_final, self.t_final)
        device = resolve_device(self.device)
        continued = self._trajectory() if self.warm_start and self._is_fitted() else None
        potential, density = self._check_potential(potential, sample_weight, device, continued)
        d = potential.n_features_in_
        if continued is not None and self._nothing_left(continued, horizon):
            return self
        structure = probe(potential, *initial_moments(self.initial, d, device))
        equation = FokkerPlanck(
            CheckedPotential(potential), float(self.beta), d, structure.separable
        )
        self.potential_ = potential
        self.__dict__.pop("density_", None)
        if density is not None:
            self.density_ = density
        effort = Effort()
        while effort is not None:
            self._solve(equation, structure, effort, continued, horizon, device)
            effort = self._next_effort(equation, structure, effort, continued)
        return self

    def _solve(
        self,
        equation: FokkerPlanck,
        structure: Structure,
        effort: Effort,
        continued: Trajectory | None,
        horizon: float,
        device: torch.device,
    ) -> None:
        """One march to the horizon, stored and certified."""
        generator = torch_generator(self.random_state, _FIT)
        if continued is None:
            self.flow_ = self._choose_flow(structure, equation.d, effort)
            theta, self.initial_error_ = initial_parameters(
                self.initial, self.flow_, equation.d, generator, device
            )
            t_start, history = 0.0, []
        else:
            theta = as_tensor(continued.thetas[-1], device)
            t_start, history = float(continued.times[-1]), self.history_[:-1]
        self.scheme_ = self._choose_scheme(effort)
        steps = self._march(equation, theta, t_start, horizon, generator)
        march = Trajectory.from_steps(steps, self.flow_, equation.d, device)
        self._store(march if continued is None else continued.followed_by(march))
        self.history_ = history + [_plain(step.record) for step in steps]
        self.certificate_ = self._certify(equation, structure)

    def _next_effort(
        self,
        equation: FokkerPlanck,
        structure: Structure,
        effort: Effort,
        continued: Trajectory | None,
    ) -> Effort | None:
        """What to try next where the certified error is above ``tol``; None to leave it there.

        Families that are solved coordinate by coordinate are cheap enough to be refined; where
        nothing can be refined a ``ConvergenceWarning`` says what would help.
        """
        reached = self.certificate_.kl(confidence=0.5)
        if reached <= self.tol or self.interrupted_:
            return None
        if not isinstance(self.scheme_, LeastSquaresNested):
            return None  # tol does not drive the others
        diagnosis = diagnose(
            self.certificate_,
            self._trajectory(),
            self.history_,
            equation,
            torch_generator(self.random_state, _CERTIFY),
        )
        separable = self.flow_.separable and structure.separable
        if separable and continued is None and effort.level < 2:
            if diagnosis.largest == "time" and self.scheme is None:
                return effort.shorter_steps()
            if diagnosis.largest != "time" and self.flow is None:
                return effort.larger_family()
        if self.initial_error_ > 0.5 * reached:
            advice = (
                "Most of it is the error of the initial law, which the `flow` cannot represent."
            )
        else:
            advice = diagnosis.advice()
        warnings.warn(
            f"The certified error at t = {self.t_final_:g} is KL <= {reached:.2g} nats, above "
            f"tol={self.tol:g}. {advice}",
            ConvergenceWarning,
            stacklevel=3,
        )
        return None

    def _check_potential(
        self,
        potential: Any,
        sample_weight: Any,
        device: torch.device,
        continued: Trajectory | None,
    ) -> tuple[Potential, Any]:
        """The potential, of known dimension, and the density fitted where draws were given."""
        if callable(potential) or isinstance(potential, Distribution):
            if sample_weight is not None:
                raise TypeError(
                    "sample_weight weighs draws, but a potential was given: leave it out."
                )
            potential = check_potential(potential, self.n_features, self.beta, device=device)
            if continued is not None and potential.n_features_in_ != continued.d:
                raise ValueError(
                    f"warm_start=True continues a march in dimension {continued.d}, but the "
                    f"potential has dimension {potential.n_features_in_}; use warm_start=False to "
                    "start anew."
                )
            self.n_features_in_ = potential.n_features_in_
            self.__dict__.pop("feature_names_in_", None)
            return potential, None
        if isinstance(potential, Tensor):
            potential = potential.detach().cpu().numpy()
        X = validate_data(
            self, potential, reset=continued is None, dtype=np.float64, ensure_min_samples=2
        )
        if self.n_features not in (None, X.shape[1]):
            raise ValueError(
                f"n_features={self.n_features} contradicts the draws, which have {X.shape[1]} "
                "columns; leave n_features out."
            )
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X, ensure_non_negative=True)
            if not sample_weight.any():
                raise ValueError(
                    "All entries of sample_weight are zero: give at least one positive."
                )
        component = GaussianDensity() if self.from_samples is None else clone(self.from_samples)
        density = fit_density(component, X, sample_weight)
        return potential_of(density, float(self.beta)), density

    def _choose_flow(self, structure: Structure, d: int, effort: Effort) -> Flow:
        if self.flow is not None:
            return clone(self.flow)
        gaussian, diagonal = initial_shape(self.initial, d)
        return choose_flow(
            structure, gaussian=gaussian, diagonal=diagonal, capacity=effort.capacity
        )

    def _choose_scheme(self, effort: Effort) -> Scheme:
        if self.scheme is not None:
            return clone(self.scheme)
        return LeastSquaresNested(effort.tolerance)

    def _nothing_left(self, march: Trajectory, horizon: float) -> bool:
        """Whether a march to be continued already is at the horizon."""
        reached = float(march.times[-1])
        if horizon < reached:
            raise ValueError(
                f"t_final={horizon:g} lies before t = {reached:g}, where the fitted march already "
                "is; with warm_start=True give a larger t_final, or use warm_start=False."
            )
        if horizon == reached:
            warnings.warn(
                f"The march already ends at t_final={horizon:g}; with warm_start=True there is "
                "nothing left to fit.",
                UserWarning,
                stacklevel=3,
            )
        return horizon == reached

    def _march(
        self,
        equation: FokkerPlanck,
        theta: Tensor,
        t_start: float,
        t_final: float,
        generator: torch.Generator,
    ) -> list[Step]:
        """Run the scheme; a KeyboardInterrupt keeps the steps made so far."""
        steps: list[Step] = []
        equation.potential.time = t_start
        self.interrupted_ = False
        before = time.perf_counter()
        with Progress(self.verbose, t_start, t_final) as progress:
            try:
                for step in self.scheme_.steps(
                    equation, self.flow_, theta, t_start, t_final, generator
                ):
                    now = time.perf_counter()
                    step.record.update(t=step.t, wall_time=now - before)
                    steps.append(step)
                    equation.potential.time, before = step.t, now
                    progress.update(step)
            except KeyboardInterrupt:
                if not steps:
                    raise
                self.interrupted_ = True
        if self.interrupted_:
            warnings.warn(
                f"Interrupted at t = {steps[-1].t:g} of {t_final:g}: the model is fitted up to "
                "there. Set warm_start=True and fit again to go on.",
                UserWarning,
                stacklevel=3,
            )
        return steps

    def _store(self, march: Trajectory) -> None:
        self.times_, self.thetas_ = march.times, march.thetas
        self.velocities_ = march.velocities
        self.t_final_ = float(march.times[-1])

    def _certify(self, equation: FokkerPlanck, structure: Structure) -> Certificate:
        """The bound on the error of the march just stored, from fresh points."""
        return certify(
            self._trajectory(),
            equation,
            torch_generator(self.random_state, _CERTIFY),
            initial_error=self.initial_error_,
            convexity=getattr(self.potential_, "convexity", structure.convexity),
        )

    # ------------------------------------------------------------------ the law at time t

    def sample(self, n_samples: int = 1, t=None, *, random_state=None) -> np.ndarray:
        """Independent draws from the law at time t.

        Parameters
        ----------
        n_samples : int, default=1
        t : float or array-like (n_samples,), optional
            Time, or one a draw; ``t_final_`` where not given.
        random_state : int, RandomState instance or None
            None takes that of the estimator.

        Returns
        -------
        ndarray (n_samples, d)
        """
        march = self._trajectory()
        z = self._latent(n_samples, random_state, march.device)
        return march.sample_from(z, as_times(t, self.t_final_, n_samples)).cpu().numpy()

    def paths(self, n_paths: int, times: Sequence[float], *, random_state=None) -> np.ndarray:
        """The same latent points pushed along time: curves of the deterministic flow.

        Parameters
        ----------
        n_paths : int
        times : array-like (k,)
            Each in [0, ``t_final_``].
        random_state : int, RandomState instance or None
            None takes that of the estimator.

        Returns
        -------
        ndarray (k, n_paths, d)
            Each slice has the law of its time; each curve follows the velocity of
            :meth:`velocity`, not the noise of a diffusion.
        """
        march = self._trajectory()
        times = np.asarray(times, dtype=float)
        if times.ndim != 1:
            raise ValueError(f"times must have shape (k,), got shape {times.shape}.")
        times = as_times(times, self.t_final_, len(times))
        z = self._latent(n_paths, random_state, march.device)
        paths = np.empty((len(times), n_paths, march.d))
        for k, t in enumerate(times):
            paths[k] = march.sample_from(z, float(t)).cpu().numpy()
        return paths

    def at(self, t: float | None = None) -> TransportedNormal:
        """The law at time t (``t_final_`` where not given) as a torch distribution.

        Its ``log_prob`` is differentiable in the points.
        """
        return self._trajectory().law(as_times(t, self.t_final_))

    def log_density(self, X, t=None):
        """Log density of the law at time t.

        Parameters
        ----------
        X : array-like or Tensor (n, d)
        t : float or array-like (n,), optional
            Time, or one a row; ``t_final_`` where not given.

        Returns
        -------
        ndarray or Tensor (n,)
        """
        return self._evaluate("log_density", X, t)

    def grad_log_density(self, X, t=None):
        """Score grad log rho(t, x), shape (n, d); arguments as in :meth:`log_density`."""
        return self._evaluate("score", X, t)

    def velocity(self, X, t=None):
        """Velocity v with d rho/dt = -div(rho v), shape (n, d), in the units of X per time.

        It is that of the fitted law, and close to -grad V - beta grad log rho. Arguments as in
        :meth:`log_density`.
        """
        return self._evaluate("velocity", X, t)

    def transform(self, X, t=None):
        """Points of the law at time t to the reference: N(0, I) if X has that law.

        Arguments as in :meth:`log_density`; shape (n, d).
        """
        return self._evaluate("latent", X, t)

    def inverse_transform(self, X, t=None):
        """Points of the reference N(0, I) to the law at time t; the inverse of :meth:`transform`.

        Arguments as in :meth:`log_density`; shape (n, d).
        """
        return self._evaluate("sample_from", X, t)

    def score_samples(self, X, t=None):
        """Log density at X (n, d), as :meth:`log_density`."""
        return self.log_density(X, t)

    def score(self, X, y=None, *, t=None, sample_weight=None) -> float:
        """Mean log density at X (n, d), weighted by ``sample_weight`` (n,); y is ignored."""
        log_density = self.log_density(X, t)
        if isinstance(log_density, Tensor):
            log_density = log_density.cpu().numpy()
        return float(np.average(log_density, weights=sample_weight))

    # ------------------------------------------------------------------ inside

    def __sklearn_is_fitted__(self) -> bool:
        return "thetas_" in self.__dict__

    def _is_fitted(self) -> bool:
        return self.__sklearn_is_fitted__()

    def _trajectory(self) -> Trajectory:
        check_is_fitted(self)
        return Trajectory(
            self.times_,
            self.thetas_,
            self.velocities_,
            self.flow_,
            self.n_features_in_,
            resolve_device(self.device),
        )

    def _evaluate(self, what: str, X: Any, t: Any) -> Any:
        march = self._trajectory()
        points, restore = as_points(self, X, march.device)
        return restore(getattr(march, what)(points, as_times(t, self.t_final_, len(points))))

    def _latent(self, n: int, random_state: Any, device: torch.device) -> Tensor:
        if not isinstance(n, Integral) or isinstance(n, bool) or n < 1:
            raise ValueError(f"The number of samples must be an integer of at least 1, got {n!r}.")
        state = self.random_state if random_state is None else random_state
        generator = torch_generator(state, _SAMPLE)
        z = torch.randn(int(n), self.n_features_in_, generator=generator, dtype=torch.float64)
        return z.to(device)


def _plain(record: dict) -> dict:
    """A step's record with its numbers as plain numbers."""

    def plain(value):
        if isinstance(value, Tensor):
            value = value.detach().cpu().numpy()
        if isinstance(value, np.ndarray | np.generic):
            return value.item() if value.ndim == 0 else np.array(value)
        return value

    return {name: plain(value) for name, value in record.items()}
