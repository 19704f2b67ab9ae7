"""A whole fit without its scikit-learn face: march, certify, refine where that is cheap."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from .certificate import Certificate, certify
from .checkpoint import Checkpoint, Checkpoints, fixed_values
from .corrector import ParticleCorrector
from .dynamics.ends import missing_support
from .equation import FokkerPlanck
from .fit import Fit
from .flows.affine import AffineFlow
from .flows.base import Flow
from .flows.choice import choose_flow
from .flows.composition import Composition
from .flows.conditional import ConditionalFlow
from .flows.conditional_choice import choose_conditional
from .flows.mixture import MixtureFlow
from .flows.radial import RadialFlow
from .initial import (
    initial_draws,
    initial_error,
    initial_moments,
    initial_parameters,
    initial_shape,
    log_sobolev_constant,
)
from .march import march, plain
from .parallel import reduction
from .plan import Plan
from .potentials import PotentialError
from .potentials.jumps import find_jump
from .schemes.base import Scheme
from .schemes.least_squares import LeastSquaresNested
from .schemes.moments import GaussianMoments
from .schemes.points import sobol_normal
from .schemes.score_duals import ScoreDualNested
from .scout import Scouts, count_modes, explore, gaussians_are_hopeless, send
from .structure import Structure, components
from .tolerance import Diagnosis, Effort, diagnose
from .trajectory import Trajectory
from .validation import as_tensor, torch_generator

_FIT, _CERTIFY, _SCOUT, _CORRECT = 0, 2, 3, 4  # streams of one seed; 1 is that of the samples
_N_SCOUTS, _N_DESCENTS, _N_EXPLORERS = 8192, 48, 2048
_MOST_OF_A_MIXTURE = 24  # dimensions
_WITHIN_REACH = 2.0  # times tol: an error that one refinement of a coupled march may mend


@dataclass
class Solver:
    """Solves one equation up to a horizon.

    Attributes
    ----------
    equation, structure
        What is solved, and what it looks like from outside.
    convexity : float or None
        lambda with Hess V >= lambda.
    horizon : float
    device : torch.device
    flow, scheme, initial, tol, random_state, verbose, corrector
        As the parameters of the estimator.
    continued : Fit, optional
        An earlier fit, to go on from.
    checkpoints : Checkpoints, optional
        Where the march is written down.
    resumed : Checkpoint, optional
        Where an earlier run got to.
    """

    SETTINGS = ("flow", "scheme", "initial", "tol", "random_state", "verbose", "corrector")

    equation: FokkerPlanck
    structure: Structure
    convexity: float | None
    horizon: float
    device: torch.device
    flow: Flow | None
    scheme: Scheme | None
    initial: Any
    tol: float
    random_state: Any
    verbose: int = 0
    corrector: ParticleCorrector | None = None
    continued: Fit | None = None
    checkpoints: Checkpoints | None = None
    resumed: Checkpoint | None = None

    def solve(self) -> Fit:
        """March to the horizon; refine until the certified error meets ``tol``, where possible."""
        effort = Effort() if self.resumed is None else self.resumed.effort
        kept = None
        if reduction().size > 1:
            self._agree()
        while True:
            try:
                fit = self._attempt(effort)
                stopped_by = fit.stopped_by
            except (Exception, KeyboardInterrupt) as stop:
                if kept is None:
                    raise
                stopped_by = stop
            if stopped_by is not None:
                if kept is None:
                    return fit
                warnings.warn(
                    f"A refinement was stopped ({type(stopped_by).__name__}: {stopped_by}). The "
                    f"fit before it is kept: its certified error is KL <= {_certified(kept):.2g} "
                    f"nats, above tol={self.tol:g}.",
                    ConvergenceWarning,
                    stacklevel=3,
                )
                return kept
            if kept is None or _certified(fit) < _certified(kept):
                kept = fit
            more = self._next_effort(fit, effort)
            if more is None:
                break
            effort = more
        self._warn_of_error(kept)
        self._warn_of_jumps(kept)
        self._correct(kept)
        return kept

    def _agree(self) -> None:
        """Make sure that all processes of a data-parallel fit solve the same problem."""
        processes = reduction()
        if not isinstance(self.random_state, Integral):  # draws of its own on every process
            seed = torch_generator(self.random_state, _FIT).initial_seed() % 2**31
            self.random_state = int(processes.same(torch.tensor(seed, device=processes.device)))
        with processes.together():
            values = fixed_values(getattr(self.equation, "potential", self.equation), self.device)
        continued = None if self.continued is None else self.continued.trajectory
        resumed = None if self.resumed is None else self.resumed.model
        processes.check_same(
            potential=[float(f"{value:.9g}") for value in values],
            t_final=self.horizon,
            beta=self.equation.charge,
            random_state=int(self.random_state),
            flow=repr(self.flow),
            scheme=repr(self.scheme),
            initial=repr(self.initial),
            structure=(self.structure.quadratic, self.structure.interacts.tolist()),
            warm_start=continued and (continued.times[-1], *continued.thetas[-1]),
            resume=resumed and (resumed.times_[-1], *resumed.thetas_[-1]),
        )

    def _attempt(self, effort: Effort) -> Fit:
        """One march to the horizon, certified."""
        generator = torch_generator(self.random_state, _FIT)
        fit, theta, t_start = self._start(effort, generator)
        resumed, self.resumed = self.resumed, None
        done = []
        if resumed is not None:
            done, fit.initial_error = resumed.steps(self.device), resumed.initial_error
            generator.set_state(resumed.generator_state)
            theta = done[-1].theta
        before = None if self.continued is None else self.continued.trajectory

        def collect(steps, stopped_by=None) -> Fit:
            made = Trajectory.from_steps(steps, fit.flow, self.equation.d, self.device)
            return Fit(
                fit.flow,
                fit.scheme,
                made if before is None else before.followed_by(made),
                fit.history + [plain(step.record) for step in steps],
                fit.initial_error,
                stopped_by=stopped_by,
            )

        if self.checkpoints is not None:
            self.checkpoints.begin(t_start, self.horizon, effort, collect, len(fit.history))
        steps, stopped_by = march(
            fit.scheme,
            self.equation,
            fit.flow,
            theta,
            (t_start, self.horizon),
            generator,
            verbose=self.verbose,
            checkpoints=self.checkpoints,
            done=done,
        )
        result = collect(steps, stopped_by)
        result.certificate = self._certify(result)
        result.plan = self.plan
        return result

    def _start(self, effort: Effort, generator: torch.Generator) -> tuple[Fit, Tensor, float]:
        """An empty fit, theta where the march starts, and that time."""
        if self.continued is not None:
            before = self.continued
            scheme = before.scheme if self.scheme is None else self.scheme
            # of a model read from a file, the scheme may be missing
            scheme = _default_scheme(before.flow, effort) if scheme is None else clone(scheme)
            self.plan = Plan(before.flow, scheme, ("an earlier march is continued",))
            theta = as_tensor(before.trajectory.thetas[-1], self.device)
            fit = _to_be_marched(before.flow, scheme, before.history[:-1], before.initial_error)
            return fit, theta, float(before.trajectory.times[-1])
        self.plan = self._make_plan(effort)
        flow, scheme = self.plan.flow, self.plan.scheme
        if self.resumed is not None:
            self.resumed.check_flow(flow, self.equation.d)
            nowhere = torch.empty(0)  # theta is that of the last step made
            return _to_be_marched(flow, scheme, [], 0.0), nowhere, 0.0
        if isinstance(flow, MixtureFlow):
            theta = self.scouts.split(flow)
            error = max(0.0, initial_error(self.initial, flow, theta, self._draws[1]))
        else:
            theta, error = initial_parameters(
                self.initial, flow, self.equation.d, generator, self.device
            )
        theta = reduction().same(theta)
        return _to_be_marched(flow, scheme, [], error), theta, 0.0

    def _make_plan(self, effort: Effort) -> Plan:
        """The family and the scheme, where the user has not chosen them, and why."""
        reasons = []
        stored = None if self.resumed is None else self.resumed.flow
        if stored is not None and (self.flow is None or not self.flow.chosen):
            # chosen anew it may come out otherwise, without a seed in particular
            flow = stored
            reasons.append("flow: that of the march that is resumed")
        elif self.flow is not None:
            flow = clone(self.flow)
            reasons.append("flow: as given")
        else:
            flow, reason = self._choose_flow(effort)
            reasons.append(reason)
        if not flow.chosen:
            flow = self._choose_functions(flow.capacity * effort.capacity)
            reasons.append(
                "functions: by the graph of V, and by where particles sent ahead were seen"
            )
            advice = missing_support(self.equation, self._seen)
            if advice is not None:
                reasons.append(f"support: {advice}")
        if isinstance(flow, AffineFlow) and self._keeps_gaussians and self.scheme is None:
            reasons.append("scheme: two linear equations for mean and covariance")
            return Plan(flow, GaussianMoments(), tuple(reasons))
        if self.scheme is not None:
            reasons.append("scheme: as given")
            return Plan(flow, clone(self.scheme), tuple(reasons))
        reasons.append(
            "scheme: the scores of the family are at hand, coordinate by coordinate"
            if flow.marched_by_scores
            else "scheme: least squares for the velocity"
        )
        return Plan(flow, _default_scheme(flow, effort), tuple(reasons))

    @cached_property
    def _keeps_gaussians(self) -> bool:
        """Whether a linear equation, and no steady gradient flow, starts at a Gaussian."""
        general = not (self.equation.has_energy and self.equation.steady)
        return (
            general and self.structure.quadratic and initial_shape(self.initial, self.equation.d)[0]
        )

    def _choose_flow(self, effort: Effort) -> tuple[Flow, str]:
        gaussian, diagonal = initial_shape(self.initial, self.equation.d)
        if self._keeps_gaussians:
            flow = AffineFlow(diagonal=self.structure.separable and diagonal)
            return flow, "flow: the equation is linear, where affine maps are exact"
        if self.equation.porous is not None and self.equation.linear:
            flow = Composition([RadialFlow(), AffineFlow()])
            return flow, "flow: the drift is linear: elliptical laws with one profile"
        if not self.equation.has_energy:
            return ConditionalFlow(), "flow: conditional densities, for any drift and diffusion"
        coupled = not self.structure.separable or not diagonal
        parts = 1
        hard = coupled and not self.structure.quadratic and self.equation.steady
        # in a plane splines do it better, and in many dimensions a mixture has too many parameters
        scale = initial_moments(self.initial, self.equation.d, self.device)[1]
        largest = max(map(len, components(self.structure.interacts, scale @ scale.T)))
        hard = hard and largest > 2 and self.equation.d <= _MOST_OF_A_MIXTURE
        if hard and not self._bent() and self.n_modes > 1:
            parts = self._n_parts()
        return choose_flow(
            self.structure,
            gaussian=gaussian,
            diagonal=diagonal,
            parts=parts,
            capacity=effort.capacity,
        )

    def _choose_functions(self, capacity: int) -> ConditionalFlow:
        """Functions of conditional densities, where particles sent ahead were seen."""
        mean, scale = initial_moments(self.initial, self.equation.d, self.device)
        return choose_conditional(
            self.structure.interacts,
            mean,
            scale @ scale.T,
            self._seen,
            capacity,
            splines=self.equation.regular,
        )

    @cached_property
    def _seen(self) -> np.ndarray:
        """Where particles sent ahead are on the way, (k, n, d)."""
        generator = torch_generator(self.random_state, _SCOUT)
        starts = self._draws[0][:_N_EXPLORERS]
        return explore(self.equation, starts, self.horizon, generator)

    def _bent(self) -> bool:
        """Whether what the particles come to is nothing for a mixture of Gaussians."""
        try:
            return gaussians_are_hopeless(self._seen[-1], self.equation, self._draws[0])
        except PotentialError:
            return True

    @cached_property
    def _draws(self) -> tuple[Tensor, Tensor]:
        """Draws of rho_0 to send ahead, and others to test on."""
        generator = torch_generator(self.random_state, _SCOUT)
        draws, held_out = initial_draws(self.initial, self.equation.d, _N_SCOUTS, generator)
        return draws.to(self.device), held_out

    @cached_property
    def n_modes(self) -> int:
        """Modes that the mass of rho_0 falls into."""
        return count_modes(self.equation, self._draws[0][:_N_DESCENTS])

    def _n_parts(self) -> int:
        """Gaussians that describe what the scouts come to; 1 where they run into a wall of V."""
        try:
            return self.scouts.n_parts(self.equation)
        except PotentialError:
            return 1

    @cached_property
    def scouts(self) -> Scouts:
        """Particles sent ahead to the horizon."""
        generator = torch_generator(self.random_state, _SCOUT)
        return send(self.equation, self._draws[0], self.horizon, generator)

    def _correct(self, fit: Fit) -> None:
        """Replace the march by the polished one, where that can be had, and certify that."""
        t_start = 0.0 if self.continued is None else float(self.continued.trajectory.times[-1])
        if self.corrector is None or fit.trajectory.times[-1] <= t_start:
            return
        march, certificate = fit.trajectory, fit.certificate
        generator = torch_generator(self.random_state, _CORRECT)
        try:
            fit.trajectory, fit.correction = self.corrector.correct(
                march, self.equation, self.initial, generator, t_start
            )
        except (Exception, KeyboardInterrupt) as stop:
            # the march is what took the time: nothing that happens here may lose it
            warnings.warn(
                f"The march is complete, but was not corrected: the corrector ended in "
                f"{type(stop).__name__}: {stop}",
                UserWarning,
                stacklevel=4,
            )
            return
        if not fit.correction.accepted.any():
            return
        fit.certificate = self._certify(fit)
        before = math.inf if certificate is None else certificate.kl(confidence=0.5)
        if before <= self.tol < _certified(fit):
            warnings.warn(
                f"The correction by particles moved the certified error from KL <= {before:.2g} to "
                f"{_certified(fit):.2g} nats, above tol={self.tol:g}: it added more residual than "
                "the march had, noise of the particles perhaps (see correction_). Try more "
                "n_particles, fewer n_times, or corrector=None.",
                ConvergenceWarning,
                stacklevel=4,
            )

    def _log_sobolev(self) -> float | None:
        """Constant of the exact initial law; that of a march continued is not known here."""
        if self.continued is not None:
            return None
        return log_sobolev_constant(self.initial, self.equation.d)

    def _certify(self, fit: Fit) -> Certificate | None:
        """The bound on the error of a march, from fresh points."""
        if len(fit.trajectory.times) < 2:
            return None
        try:
            return certify(
                fit.trajectory,
                self.equation,
                torch_generator(self.random_state, _CERTIFY),
                initial_error=fit.initial_error,
                convexity=self.convexity,
                log_sobolev=self._log_sobolev(),
                interacts=self.structure.interacts,
            )
        except (Exception, KeyboardInterrupt) as stop:
            # the march is what took the time: nothing that happens here may lose it
            if fit.stopped_by is None:
                warnings.warn(
                    f"The march is complete, but certificate_ is None: its computation ended in "
                    f"{type(stop).__name__}: {stop}",
                    UserWarning,
                    stacklevel=5,
                )
            return None

    def _next_effort(self, fit: Fit, effort: Effort) -> Effort | None:
        """What to try next where the certified error is above ``tol``; None to leave it there.

        Families that are solved coordinate by coordinate are cheap enough to be refined whenever
        that may help; others where the certified error is within a factor of ``_WITHIN_REACH``.
        """
        if not self._falls_short(fit) or fit.flow.marched_by_scores:
            return None
        if math.isinf(_certified(fit)):  # there is no bound of KL to make smaller
            return None
        diagnosis, reached = self._diagnose(fit), _certified(fit)
        separable = fit.flow.separable and self.structure.separable
        promising = fit.initial_error < self.tol and reached < _WITHIN_REACH * self.tol
        if self.continued is None and effort.level < 2 and (separable or promising):
            largest, last = diagnosis.largest, fit.history[-1]
            if largest == "time" and self.scheme is None:
                return effort.shorter_steps(last["tolerance"])
            if largest == "sampling" and self.scheme is None and not separable:
                return effort.more_samples(last["n_samples"])
            if largest != "time" and self.flow is None:
                return effort.larger_family()
        return None

    def _falls_short(self, fit: Fit) -> bool:
        """Whether the certified error is above ``tol``, where the scheme aims at that."""
        return (
            fit.scheme.aims_at_tolerance
            and fit.certificate is not None
            and _certified(fit) > self.tol
        )

    def _diagnose(self, fit: Fit) -> Diagnosis:
        assert fit.certificate is not None
        generator = torch_generator(self.random_state, _CERTIFY)
        return diagnose(fit.certificate, fit.trajectory, fit.history, self.equation, generator)

    def _warn_of_error(self, fit: Fit) -> None:
        """Say what limits a fit that falls short of ``tol``, and what would help."""
        if fit.certificate is None or not self._falls_short(fit):
            return
        reached = _certified(fit)
        larger = (
            "Try flow=ConditionalFlow(capacity=2), or ScoreDualNested with a smaller tolerance and "
            "more n_samples."
        )
        if math.isinf(reached):  # there is no bound of KL: total variation, by Pinsker
            off = fit.certificate.total_variation(confidence=0.5)
            if 2 * off**2 > self.tol:
                advice = (
                    larger if fit.flow.marched_by_scores else "Try a flow with more parameters."
                )
                warnings.warn(
                    f"The certified error at t = {fit.trajectory.times[-1]:g} is a total variation "
                    f"of at most {off:.2g}, more than tol={self.tol:g} nats would be (there is no "
                    "bound in nats where the diffusion has no inverse, nor for porous media). "
                    f"{advice}",
                    ConvergenceWarning,
                    stacklevel=4,
                )
            return
        if fit.initial_error > 0.5 * reached:
            advice = (
                "Most of it is the error of the initial law, which the `flow` cannot represent."
            )
        elif fit.flow.marched_by_scores:
            advice = larger
        else:
            advice = self._diagnose(fit).advice()
        warnings.warn(
            f"The certified error at t = {fit.trajectory.times[-1]:g} is KL <= {reached:.2g} nats, "
            f"above tol={self.tol:g}. {advice}",
            ConvergenceWarning,
            stacklevel=4,
        )

    @torch.no_grad()
    def _warn_of_jumps(self, fit: Fit) -> None:
        """Say where V jumps within the law at the horizon (at t = 0 it is refused)."""
        if self.equation.has_walls or not self.equation.has_energy:
            return
        theta = as_tensor(fit.trajectory.thetas[-1], self.device)
        y, _ = fit.flow.forward(theta, sobol_normal(512, self.equation.d, seed=0).to(theta))
        try:
            jump = find_jump(self.equation.potential, y, torch.diag(y.std(0)), self.equation.beta)
        except PotentialError:  # of a neighbour out of reach
            return
        if jump is not None:
            warnings.warn(
                f"Near the points of t = {fit.trajectory.times[-1]:g} {jump}. Neither the fit nor "
                "its certificate knows of it.",
                UserWarning,
                stacklevel=4,
            )


def _to_be_marched(flow: Flow, scheme: Scheme, history: list[dict], error: float) -> Fit:
    """A fit without a march: what is known before."""
    nothing: Any = None
    return Fit(flow, scheme, nothing, history, error)


def _default_scheme(flow: Flow, effort: Effort) -> Scheme:
    if flow.marched_by_scores:
        return ScoreDualNested()
    return LeastSquaresNested(effort.tolerance, effort.n_samples)


def _certified(fit: Fit) -> float:
    """The certified error of a fit, as estimated; infinite where there is none."""
    return math.inf if fit.certificate is None else fit.certificate.kl(confidence=0.5)
