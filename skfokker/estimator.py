"""ParametricFokkerPlanck: the scikit-learn face of the package and nothing else."""

from __future__ import annotations

import copy
import math
import warnings
from dataclasses import replace
from functools import partial
from numbers import Integral, Real
from typing import Any

import torch
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from torch.distributions import Distribution

from .checkpoint import Checkpoints, find_checkpoint
from .cloning import CloneMixin
from .corrector import ParticleCorrector
from .densities import DensityPotential
from .dynamics.general import GeneralFokkerPlanck
from .dynamics.reading import is_equation, read_equation, read_support
from .dynamics.timed import TimedPotential
from .equation import FokkerPlanck
from .fit import Fit
from .flows import Flow
from .flows.frame import Frame, framed, split_frame
from .flows.support import SupportMap, refuse_outside, support_of
from .history import history_frame
from .initial import Gaussian, initial_moments, on_the_line
from .law import LawMixin
from .persistence import PersistentMixin
from .potential_input import read_potential
from .potentials import CheckedPotential
from .potentials.boundaries import refuse_boundaries
from .rest import EQUILIBRIUM, Equilibrium, Rest, relaxation_time, solve_to_rest
from .schemes.base import Scheme
from .schemes.points import crowd
from .solver import Solver
from .start import LAPLACE, Start
from .stationary import STATIONARY, Stationary
from .trajectory import Trajectory
from .validation import SuggestingMixin, as_horizon, as_points, as_times, resolve_device

#: What a march without a horizon may wait for.
_RESTS: dict[str, Rest] = {EQUILIBRIUM: Equilibrium(), STATIONARY: Stationary()}


class ParametricFokkerPlanck(LawMixin, PersistentMixin, SuggestingMixin, CloneMixin, BaseEstimator):
    r"""Samples and densities of the solution of a Fokker-Planck equation at every time.

    Solves :math:`\partial_t \rho = \nabla \cdot (\rho \nabla V) + \beta \Delta \rho` in
    :math:`R^d` from :math:`\rho(0) = \rho_0`, with :math:`\rho(t)` represented as the image of
    N(0, I) under an invertible map :math:`T_{\theta(t)}` whose parameters follow the Wasserstein
    gradient flow of the free energy (equations (5) and (27) of the paper).

    Parameters
    ----------
    flow : Flow, optional
        Family of maps. None picks one that suits the dimension and the potential (``plan_``).
        The march is then made behind a rotation, where one splits V into independent blocks of
        coordinates that V(x) does not show, or in linear coordinates that split an equation.
    scheme : Scheme, optional
        March of the parameters through time. None is ``ScoreDualNested()`` for conditional
        densities, and ``LeastSquaresNested()`` for all other families.
    beta : float, default=1.0
        Diffusion coefficient, positive.
    initial : None, (mean, covariance), Gaussian, Distribution, array-like (n, d) or "laplace"
        The start :math:`\rho_0`. None is N(0, I). Gaussians (torch's included) are met exactly;
        any other distribution, or draws from one, is fitted by maximum likelihood. Where an
        equation has a support, Gaussians are laws of y (see :class:`Equation`). "laplace" is
        a Gaussian over the modes of :math:`e^{-V / \beta}`, wherever they are and however wide
        (:func:`skfokker.bayes.laplace`): the start for a march whose end alone matters.
    t_final : float, "equilibrium" or "stationary", default=1.0
        Horizon, unless ``fit`` is told another one. "equilibrium" marches until the free energy
        has stopped falling: first to the relaxation time of the start (its largest variance over
        beta), then on to twice the time reached, until over the last half of the march the free
        energy fell by less than ``tol * beta``; after six doublings it gives up with a
        ``ConvergenceWarning``. A march that waits at a barrier counts as at rest. With
        ``initial="laplace"`` it is made in coordinates in which the start is N(0, I), so that
        scales from 0.001 to 15 do not matter: that is the diffusion preconditioned by the
        covariance C of the start, :math:`\partial_t \rho = \nabla \cdot (\rho C \nabla V) +
        \beta \nabla \cdot (C \nabla \rho)`, with the same equilibrium. Only its end is that of
        the equation above, and a relaxation takes times of order 1.

        "stationary" marches until the law itself rests, of any equation that does not depend on
        time: to where particles sent ahead have come to rest (or the slowest eigenvalue of a
        linear equation says so), then on to twice the time reached, until what is left to go is
        by extrapolation less than ``tol / 100`` nats. Where there is no stationary law a sentence
        says so: a ``ValueError`` of a linear equation, a ``MarchError`` where particles do not
        come to rest, a ``ConvergenceWarning`` after six doublings. A law that waits at a barrier
        counts as at rest here, too.
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
        limits the fit. Schemes other than the two defaults are not judged by it.
    device : str, default="cpu"
        Where the work is done. A device that is not there is replaced by the CPU, with a warning.
    random_state : int, RandomState instance or None, default=None
        Seed of the march, and of ``sample`` and ``paths`` where they are given none.
    verbose : int, default=0
        1 shows a progress bar, 2 prints a line a step.
    warm_start : bool, default=False
        Continue a fitted march to a larger ``t_final`` instead of starting anew.
    corrector : ParticleCorrector, optional
        Polishes the march afterwards, by maximum likelihood on simulated particles. None leaves
        it as it is.

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
    plan_ : Plan or None
        Who chose the family and the scheme, and why: ``print(fit.plan_)``. None in models read from
        a file of :meth:`save`.
    potential_ : Potential or GeneralFokkerPlanck
        The potential in use; its ``value_and_grad`` gives V and grad V. Of an equation that is no
        gradient flow, that equation.
    beta_ : float
        Diffusion coefficient in use, NaN where the diffusion is no number.
    density_ : estimator
        The fitted ``from_samples`` component; only where draws were given.
    initial_error_ : float
        KL(rho_theta(0) | rho_0), 0 where the start is met exactly; KL(rho_0 | rho_theta(0)) for a
        start given by draws, whose density is not known.
    history_ : list of dict
        One record a step: ``t``, ``wall_time`` in seconds, and what the scheme has to say
        (``h``, ``free_energy``, ``residual``, ``iterations``).
    t_final_ : float
        Time reached.
    interrupted_ : bool
        Whether the march was stopped before its horizon, by the keyboard or by an error.
    certificate_ : Certificate or None
        Bound on the error of the law along time; None where none could be computed, and in
        models read from a file of :meth:`save`.
    correction_ : Correction or None
        What the ``corrector`` did, with held-out likelihoods; None where there was none.
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

    In a pipeline behind a scaler, ``score`` is the log density of the scaled data;
    :func:`skfokker.pipelines.score_samples` adds the log determinant of the scaling.

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
        "initial": [
            None,
            StrOptions({LAPLACE}),
            tuple,
            Gaussian,
            Distribution,
            Tensor,
            "array-like",
        ],
        "t_final": [Interval(Real, 0, None, closed="neither"), StrOptions(set(_RESTS))],
        "n_features": [Interval(Integral, 1, None, closed="left"), None],
        "from_samples": [HasMethods(["fit"]), None],
        "tol": [Interval(Real, 0, None, closed="neither")],
        "device": [str],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "corrector": [ParticleCorrector, None],
    }

    def __init__(
        self,
        flow: Flow | None = None,
        scheme: Scheme | None = None,
        *,
        beta: float = 1.0,
        initial: Any = None,
        t_final: float | str = 1.0,
        n_features: int | None = None,
        from_samples: Any = None,
        tol: float = 1e-2,
        device: str = "cpu",
        random_state: Any = None,
        verbose: int = 0,
        warm_start: bool = False,
        corrector: ParticleCorrector | None = None,
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
        self.corrector = corrector

    def fit(
        self,
        potential,
        y=None,
        *,
        t_final=None,
        sample_weight=None,
        checkpoint=None,
        checkpoint_interval=None,
        resume=None,
    ) -> ParametricFokkerPlanck:
        """Solve the equation from t = 0 to the horizon.

        Parameters
        ----------
        potential : callable, Potential, Equation, Distribution or array-like (n, d)
            V: any function of a torch tensor (n, d) that returns (n,), differentiable. A torch
            distribution means V = -beta log_prob. An array is draws from the equilibrium law:
            V = -beta log of the density that ``from_samples`` fits to them.
        y : float or ignored
            A real number is the horizon, as ``t_final``. Anything else is ignored.
        t_final : float, "equilibrium" or "stationary", optional
            Horizon, the parameter ``t_final`` where not given.
        sample_weight : array-like (n,), optional
            Weights of draws, for ``from_samples``.
        checkpoint : str or path-like, optional
            File that the march is written to as it goes, replaced atomically. :meth:`load` reads
            it as a model fitted so far. Needs safetensors.
        checkpoint_interval : float, optional
            Model time between two checkpoints, a tenth of the march where not given. The scheme
            starts afresh at each, with a few short steps.
        resume : str, path-like or bool, optional
            Checkpoint to go on from, with the same parameters and potential. The result has the
            same bits as that of a run that was not interrupted, for an integer ``random_state``.
            Checkpoints go on being written there, or to ``checkpoint``. True resumes from
            ``checkpoint`` where that file exists, and starts anew otherwise.

        Raises
        ------
        TypeError, ValueError
            Where an argument is not what is said above, each with a sentence that says so;
            where V or its gradient is not finite (``PotentialError``, at which point and time).
        MarchError
            Where the march cannot go on.

        Notes
        -----
        Whatever stops a march half-way loses nothing: after Ctrl-C, ``fit`` returns with a
        warning; an exception, of the potential say, passes through. Either way the model is
        fitted up to the time reached, ``interrupted_`` is True, and with ``warm_start=True``
        another call of ``fit`` goes on from there.
        """
        self._validate_params()
        horizon = as_horizon(y, t_final, self.t_final)
        rest = _RESTS[horizon] if isinstance(horizon, str) else None
        to_rest = rest is not None
        device = resolve_device(self.device)
        continued = self._last_fit() if self.warm_start and self._is_fitted() else None
        resumed = find_checkpoint(type(self), resume, checkpoint)
        before_d = continued.trajectory.d if continued else None
        beta, density, ends = float(self.beta), None, None
        if is_equation(potential):
            if sample_weight is not None:
                raise TypeError(
                    "sample_weight weighs draws, but an equation was given: leave it out."
                )
            potential, beta, ends = self._read_equation(potential, horizon, before_d, device)
        else:
            potential, density = read_potential(self, potential, sample_weight, device, before_d)
        chart = None if ends is None else SupportMap(ends.low, ends.high)
        initial = on_the_line(self.initial, ends, self.n_features_in_)
        general = isinstance(potential, GeneralFokkerPlanck)
        if resumed is not None:
            given = horizon if t_final is not None or horizon != self.t_final else None
            given = None if to_rest else given
            resumed.check(self, potential, given)
            horizon, continued = resumed.horizon, resumed.continued(self.flow, device)
            checkpoint = resumed.path if checkpoint is None else checkpoint
            checkpoint_interval = resumed.interval
        elif continued is not None and not isinstance(horizon, str):
            if _nothing_left(continued.trajectory, horizon):
                return self
        span = math.nan if isinstance(horizon, str) else horizon  # to rest: found leg by leg
        before = self if continued is not None else resumed.model if resumed is not None else None
        # a family of the user's with all its functions is taken as it is, in the user's coordinates
        free = before is None and (self.flow is None or not self.flow.chosen)
        frame = None
        if before is not None:
            flow = getattr(before, "flow_", None)
            frame = split_frame(flow)[1]
            if flow is not None and str(support_of(flow)) != str(ends):
                raise ValueError(
                    f"A march on the support {support_of(flow)} cannot be continued on {ends}: "
                    "give the equation the same support, or use warm_start=False."
                )
        if general:
            reach = None if to_rest else span
            start = Start.general(initial, potential, device, reach, frame=frame, rotate=free)
        else:
            start = Start.of(
                initial,
                potential,
                beta,
                self.random_state,
                device,
                precondition=rest is _RESTS[EQUILIBRIUM] and before is None,
                frame=frame,
                rotate=free,
                horizon=None if to_rest else span,
            )
        if before is None and not general and not start.potential.has_walls:
            mean, scale = initial_moments(start.initial, potential.n_features_in_, device)
            reach = relaxation_time(scale, beta) if to_rest else span
            refuse_boundaries(start.potential, mean, scale, beta, reach)
        checkpoints = None
        if checkpoint is not None:
            snapshot = partial(self._snapshot, start.frame, chart)
            checkpoints = Checkpoints(checkpoint, checkpoint_interval, snapshot, potential)
        self.potential_, self.beta_ = potential, beta
        self.__dict__.pop("density_", None)
        if density is not None:
            self.density_ = density
        equation: Any = start.potential
        if not general:
            equation = FokkerPlanck(
                CheckedPotential(start.potential),
                beta,
                potential.n_features_in_,
                start.structure.separable,
                start.structure.interacts,
            )
        if not (equation.has_energy and equation.steady):
            self._check_general()
        convexity = getattr(start.potential, "convexity", start.structure.convexity)
        if ends is not None:  # it would bound distances in other coordinates than x
            convexity = None
        solver = Solver(
            equation,
            start.structure,
            convexity,
            span,
            device,
            **{name: getattr(self, name) for name in Solver.SETTINGS} | {"initial": start.initial},
            continued=continued,
            checkpoints=checkpoints,
            resumed=resumed,
        )
        fit = solver.solve() if rest is None else solve_to_rest(solver, rest)
        for reason in (start.reason, None if ends is None else f"coordinates: {ends.formula}"):
            if reason is not None and fit.plan is not None:
                fit.plan = fit.plan.because(reason)
        self._store(fit, start.frame, chart)
        if fit.stopped_by is not None:
            self._stop(fit.stopped_by, solver.horizon)
        return self

    def posterior(self, n_draws: int = 4000, *, random_state=None):
        """Weighted draws of the equilibrium exp(-V / beta), with diagnostics.

        The law at ``t_final_`` proposes; importance weights correct it.

        Parameters
        ----------
        n_draws : int, default=4000
        random_state : int, RandomState instance or None
            None takes that of the estimator.

        Returns
        -------
        skfokker.bayes.Posterior
        """
        from .bayes import Posterior

        if isinstance(self.potential_, GeneralFokkerPlanck | TimedPotential):
            raise ValueError(
                "posterior() weighs draws by the equilibrium exp(-V / beta), which an equation "
                "with this drift or diffusion, or in time, does not have: use sample()."
            )
        if support_of(self.flow_) is not None:
            raise ValueError(
                "posterior() weighs draws on the whole line, but this equation has a support: use "
                "sample(), or write the equation in y and leave support out."
            )
        law = self.at()
        potential = DensityPotential(self.potential_, 1 / getattr(self, "beta_", self.beta))
        state = self.random_state if random_state is None else random_state
        return Posterior(potential, law, n_draws, random_state=state)

    def to_torch(self, t: float | None = None):
        """The map from N(0, I) to the law at time t, a torch module with a ``state_dict``."""
        from .module import FlowModule

        law = self.at(t)
        return FlowModule(law.flow, law.theta, self.n_features_in_)

    def history_frame(self):
        r"""``history_`` as a pandas DataFrame, one row a step.

        A time is repeated where the march changed its points or its family there.

        Returns
        -------
        DataFrame (k, number of columns)
            Indexed by ``step``, 0 for the start. Columns, as far as the scheme has them:

            - ``t``: time after the step;
            - ``wall_time``: seconds that the step took;
            - ``h``: its size (for `LeastSquaresNested` the differences of ``t``);
            - ``free_energy``: :math:`H(\theta)`, in the units of V;
            - ``residual``, ``force``: :math:`E|r|^2` at the points of the march, and
              :math:`E|\nabla V + \beta \nabla \log \rho|^2`, squared units of x per time;
            - ``iterations``: of the linear solver, of Gauss-Newton or of Adam;
            - ``evaluations``: of :math:`\theta'`;
            - ``rejected``: steps tried in vain before this one;
            - ``inner_loss``, ``epsilon``: of `AdamNested`, the loss in units of epsilon squared;
            - ``dissipation``: of `ForwardEuler` and `FlatGradient`, the rate at which H falls;
            - ``decrease``, ``distance``, ``factorisations``, ``correction``, ``converged``: of
              `SemiImplicitNested`, how far H fell on the points of the step, the root mean
              square motion of the points, and how the minimisation went.

        Raises
        ------
        ImportError
            Where pandas is not installed.
        """
        check_is_fitted(self)
        return history_frame(self.history_)

    def plot(self, times=None, **options):
        """One picture of the fit; see :func:`skfokker.plotting.overview`. Needs matplotlib."""
        from .plotting import overview

        return overview(self, times, **options)

    def current(self, X, t=None):
        r"""The probability current J with :math:`\partial_t \rho = -\nabla \cdot J`.

        :math:`J = \rho (b - \nabla \cdot D - D \nabla \log \rho)`, drift and diffusion those of
        the equation, the law that of the fit: where a stationary law has a current, the forces do
        work. Needs the equation, which a model read from a file may lack.

        Parameters
        ----------
        X : array-like or Tensor (n, d)
        t : float, optional
            ``t_final_`` where not given.

        Returns
        -------
        ndarray or Tensor (n, d)
        """
        march = self._trajectory()
        points, restore = as_points(self, X, march.device)
        t = float(as_times(t, self.t_final_))
        equation = self.potential_
        if not isinstance(equation, GeneralFokkerPlanck):
            checked = CheckedPotential(equation)
            beta = getattr(self, "beta_", self.beta)
            equation = FokkerPlanck(checked, beta, self.n_features_in_)
        refuse_outside(march.flow, points)
        density, support = march.log_density(points, t).exp(), support_of(march.flow)
        slope = torch.ones_like(points)
        if support is not None:  # the equation is that of y
            march = replace(march, flow=framed(*split_frame(march.flow)))
            points = support.to_y(points)
            slope = support.slope(points)
        theta = torch.as_tensor(march.at(t)[0], device=march.device)
        equation.move_to(t, lambda n: crowd(march.flow, theta, march.d, n))
        force = equation.driving_force(points, march.score(points, t), march.log_density(points, t))
        return restore(-density[:, None] * slope * force)

    # ------------------------------------------------------------------ inside

    def _read_equation(self, given, horizon, before_d, device):
        """The equation in use, or its potential, beta and the support; sets ``n_features_in_``."""
        to_rest = isinstance(horizon, str)
        mean = None
        if isinstance(self.initial, tuple | Gaussian):
            pair = self.initial if isinstance(self.initial, tuple) else (self.initial.mean,)
            mean = torch.as_tensor(pair[0], dtype=torch.float64)
            mean = mean if mean.ndim == 1 else None
        equation, beta = read_equation(
            given,
            n_features=self.n_features,
            beta=float(self.beta),
            mean=mean,
            horizon=None if to_rest else horizon,
            device=device,
        )
        if before_d is not None and equation.n_features_in_ != before_d:
            raise ValueError(
                f"warm_start=True continues a march in dimension {before_d}, but the equation has "
                f"dimension {equation.n_features_in_}; use warm_start=False to start anew."
            )
        general = isinstance(equation, GeneralFokkerPlanck)
        if to_rest and not (equation.autonomous if general else getattr(equation, "steady", True)):
            raise ValueError(
                f"t_final={horizon!r} waits for the law to rest, but the equation depends on time: "
                "give a number."
            )
        if horizon == EQUILIBRIUM and general:
            raise ValueError(
                "t_final='equilibrium' is where the free energy rests, but the drift of this "
                "equation is no gradient, or its diffusion no number: there is no free energy. "
                "Take t_final='stationary', or a number."
            )
        self.n_features_in_ = equation.n_features_in_
        self.__dict__.pop("feature_names_in_", None)
        return equation, beta, read_support(given, equation.n_features_in_)

    def _check_general(self) -> None:
        """Refuse what only gradient flows that do not depend on time have."""
        if self.corrector is not None:
            raise ValueError(
                "corrector polishes gradient flows that do not depend on time: leave it out for "
                "this equation."
            )
        if self.scheme is not None and not self.scheme.any_equation:
            raise ValueError(
                f"scheme={self.scheme!r} marches gradient flows that do not depend on time: leave "
                "scheme out, or take ScoreDualNested() or LeastSquaresNested()."
            )

    def __sklearn_is_fitted__(self) -> bool:
        return "thetas_" in self.__dict__

    def _is_fitted(self) -> bool:
        return self.__sklearn_is_fitted__()

    def _store(self, fit: Fit, frame: Frame | None, chart: SupportMap | None) -> None:
        march = fit.trajectory
        self.flow_, self.scheme_ = framed(fit.flow, frame, chart), fit.scheme
        self.times_, self.thetas_, self.velocities_ = march.times, march.thetas, march.velocities
        self.t_final_, self.history_ = float(march.times[-1]), fit.history
        self.initial_error_, self.certificate_ = fit.initial_error, fit.certificate
        self.correction_, self.plan_ = fit.correction, fit.plan
        self.interrupted_ = fit.stopped_by is not None

    def _last_fit(self) -> Fit:
        flow = split_frame(self.flow_)[0]
        march = replace(self._trajectory(), flow=flow)
        return Fit(flow, self.scheme_, march, self.history_, self.initial_error_)

    def _snapshot(
        self, frame: Frame | None, chart: SupportMap | None, fit: Fit
    ) -> ParametricFokkerPlanck:
        """A model fitted so far, which is what a checkpoint holds."""
        model = copy.copy(self)
        model._store(fit, frame, chart)
        model.interrupted_ = True
        return model

    def _stop(self, stopped_by: BaseException, horizon: float) -> None:
        """Say that the march ended early, and raise what ended it unless it was the keyboard."""
        where = (
            f"at t = {self.t_final_:g} of {horizon:g}: the model is fitted up to there. Set "
            "warm_start=True and fit again to go on."
        )
        if isinstance(stopped_by, KeyboardInterrupt):
            warnings.warn(f"Interrupted {where}", UserWarning, stacklevel=3)
            return
        if hasattr(stopped_by, "add_note"):  # from Python 3.11 on
            stopped_by.add_note(f"The march stopped {where}")
        raise stopped_by


def _nothing_left(march: Trajectory, horizon: float) -> bool:
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
