"""Weighted draws of a target through a fitted law, and what can be said of them."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.special import logsumexp
from torch import Tensor

from ..potentials.foreign import ask
from ..seeded import Seeded
from ..validation import torch_generator
from .calls import Counted
from .evidence import Evidence, bridge_evidence, importance_evidence
from .forward_check import ForwardCheck, forward_check
from .metropolis import Chains, metropolis_states, run_length
from .modes import MOST_MODES
from .psis import effective_sample_size, psis, reliable_k
from .report import verdict

_DRAWS, _RESAMPLE, _METROPOLIS, _CHECK = 0, 1, 2, 3  # streams of one seed
_EQUAL = 1e-3  # log ratios within this are those of an exact fit
_CHUNK = 4096  # points a call of the log density gets


class Posterior:
    r"""Draws from a law q close to a target p, with everything needed to judge and correct them.

    Parameters
    ----------
    potential : callable
        V = -log p up to a constant, torch (n, d) -> (n,), in the coordinates of ``law``. Infinite
        or NaN means outside the support. ``check`` and ``mode`` finding also use
        ``value_and_grad``.
    law : torch.distributions.Distribution
        q, with ``event_shape`` (d,); that of ``estimator.at()``, say.
    n_draws : int, default=4000
    blocks : Blocks, optional
        Names, shapes and constraints of the coordinates.
    random_state : int, RandomState instance or None, default=None
    laplace : Laplace, optional
        The modes known beforehand; the report says which of them no draw is in.
    calls : Counted, optional
        What counts the points at which ``potential`` is asked, those of a fit before included.

    Attributes
    ----------
    x : ndarray (n, d)
        Draws from q, unconstrained.
    log_p, log_q : ndarray (n,)
        Log densities at ``x``, log_p not normalised.
    log_ratios : ndarray (n,)
        log_p - log_q.
    log_weights : ndarray (n,)
        Pareto-smoothed, normalised to sum 1.
    k : float
        Pareto k of the log ratios; -inf where they are all equal to 1e-3.

    Examples
    --------
    >>> import torch
    >>> from torch.distributions import MultivariateNormal
    >>> from skfokker.bayes import Posterior
    >>> def potential(x):
    ...     return 0.5 * x.square().sum(1)
    >>> law = MultivariateNormal(torch.zeros(2).double(), 1.2 * torch.eye(2).double())
    >>> posterior = Posterior(potential, law, random_state=0)
    >>> posterior.k < 0.5
    True
    >>> abs(posterior.log_evidence.value - 1.8379) < 0.02
    True
    """

    def __init__(
        self,
        potential: Any,
        law: Any,
        n_draws: int = 4000,
        *,
        blocks: Any = None,
        random_state: Any = None,
        laplace: Any = None,
        calls: Counted | None = None,
    ):
        if isinstance(n_draws, bool) or not isinstance(n_draws, int | np.integer) or n_draws < 25:
            raise ValueError(
                f"n_draws must be an integer of at least 25, got {n_draws!r}; thousands are cheap."
            )
        self.potential, self.law, self.blocks = potential, law, blocks
        self.random_state, self.laplace = random_state, laplace
        if calls is None:
            calls = self.potential = Counted(potential)
        self.calls = calls
        self.x, self.log_p, self.log_q = self._propose(int(n_draws), _DRAWS)
        self.log_ratios = self.log_p - self.log_q
        self.log_weights, self.k = psis(self.log_ratios)
        if np.ptp(self.log_ratios) < _EQUAL:  # a tail fitted to rounding errors says nothing
            self.k = -math.inf

    # ------------------------------------------------------------------ draws

    @property
    def weights(self) -> np.ndarray:
        """Smoothed importance weights (n,), of sum 1."""
        return np.exp(self.log_weights)

    @cached_property
    def draws(self) -> dict[str, np.ndarray]:
        """Draws from q by name, constrained, each (n, *shape); weigh them by ``weights``."""
        return self.by_name(self.x)

    def by_name(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """Unconstrained points (..., d) as named, constrained arrays (..., *shape)."""
        x = np.asarray(x)
        if self.blocks is None:
            return {"x": x}
        flat = torch.from_numpy(np.ascontiguousarray(x.reshape(-1, x.shape[-1])))
        values = self.blocks.constrain(flat)[0]
        return {
            name: value.numpy().reshape(*x.shape[:-1], *value.shape[1:])
            for name, value in values.items()
        }

    def resample(self, n_draws: int | None = None, *, random_state: Any = None) -> np.ndarray:
        """Equally weighted draws (n_draws, d), unconstrained, by stratified resampling.

        Parameters
        ----------
        n_draws : int, optional
            As many as there are where not given. Draws repeat; more than the effective sample size
            says nothing new.
        random_state : int, RandomState instance or None
            None takes that of the posterior.
        """
        n = len(self.x) if n_draws is None else int(n_draws)
        generator = self._generator(_RESAMPLE, random_state)
        places = (np.arange(n) + torch.rand(n, generator=generator).double().numpy()) / n
        edges = np.cumsum(self.weights)
        chosen = np.searchsorted(edges / edges[-1], places, side="right").clip(0, len(self.x) - 1)
        order = torch.randperm(n, generator=generator).numpy()
        return self.x[chosen[order]]

    def independence_metropolis(
        self, n_draws: int = 4000, n_chains: int = 4, *, random_state: Any = None
    ) -> Chains:
        """Chains that propose fresh draws from q: exact for p in the limit, whatever k says.

        Parameters
        ----------
        n_draws : int
            Over all chains.
        n_chains : int
        random_state : int, RandomState instance or None
        """
        length = run_length(n_draws, n_chains)
        x, log_p, log_q = self._propose(length * n_chains, _METROPOLIS, random_state)
        ratios = (log_p - log_q).reshape(n_chains, length)
        generator = self._generator(_METROPOLIS + 100, random_state)
        uniforms = torch.rand(n_chains, length, generator=generator, dtype=torch.float64).numpy()
        states, acceptance = metropolis_states(ratios, uniforms)
        rows = np.arange(n_chains)[:, None]
        x = x.reshape(n_chains, length, -1)
        return Chains(x[rows, states], ratios[rows, states], acceptance)

    # ------------------------------------------------------------------ numbers

    @property
    def ess(self) -> float:
        """Effective sample size of the smoothed weights (Kish)."""
        return effective_sample_size(self.log_weights)

    @property
    def efficiency(self) -> float:
        """ESS / n."""
        return self.ess / len(self.x)

    @property
    def elbo(self) -> Evidence:
        """E_q[log p - log q], a lower bound of the log evidence, and its standard error."""
        value = self.log_ratios.mean()
        if not np.isfinite(value):
            return Evidence(-math.inf, math.nan)
        return Evidence(float(value), float(self.log_ratios.std() / math.sqrt(len(self.x))))

    @property
    def log_evidence(self) -> Evidence:
        """log of the integral of p by importance sampling, and its standard error."""
        return importance_evidence(self.log_ratios)

    def bridge(
        self, n_draws: int | None = None, *, chains: Chains | None = None, random_state: Any = None
    ) -> Evidence:
        """log of the integral of p by the optimal bridge, and its standard error.

        Parameters
        ----------
        n_draws : int, optional
            Draws of p, by independence Metropolis; as many as those of q where not given.
        chains : Chains, optional
            Draws of p made before; of :meth:`independence_metropolis` or :meth:`chains_of`.
        random_state : int, RandomState instance or None
        """
        if chains is None:
            n = len(self.x) if n_draws is None else n_draws
            chains = self.independence_metropolis(n, random_state=random_state)
        from .convergence import effective_draws

        effective = float(effective_draws(chains.log_ratios))
        if not np.isfinite(effective):  # all ratios equal: q is p
            effective = chains.log_ratios.size
        return bridge_evidence(self.log_ratios, chains.log_ratios.ravel(), effective)

    def chains_of(self, x: np.ndarray) -> Chains:
        """Chains (n_chains, n_draws, d) of another sampler, unconstrained, for :meth:`bridge`."""
        x = np.asarray(x, dtype=float)
        flat = torch.from_numpy(np.ascontiguousarray(x.reshape(-1, x.shape[-1])))
        log_q = self._log_q(flat).nan_to_num(nan=-math.inf).numpy()
        ratios = self._log_p(flat) - log_q  # +inf where q has no mass at all
        return Chains(x, ratios.reshape(x.shape[:-1]), math.nan)

    def expectation(self, function: Any) -> tuple[np.ndarray, np.ndarray]:
        """Weighted mean of a function of the named draws, and its standard error.

        Parameters
        ----------
        function : callable
            Maps the dictionary :attr:`draws` to an array (n, ...).
        """
        values = np.asarray(function(self.draws), dtype=float)
        w = self.weights.reshape(-1, *[1] * (values.ndim - 1))
        mean = (w * values).sum(0)
        return mean, np.sqrt((w**2 * (values - mean) ** 2).sum(0))

    def mean(self) -> dict[str, np.ndarray]:
        """Weighted means by name."""
        return {name: _mean(value, self.weights) for name, value in self.draws.items()}

    def sd(self) -> dict[str, np.ndarray]:
        """Weighted standard deviations by name."""
        return {
            name: np.sqrt(_mean((value - _mean(value, self.weights)) ** 2, self.weights))
            for name, value in self.draws.items()
        }

    def covariance(self) -> np.ndarray:
        """Weighted covariance (d, d) of the unconstrained draws."""
        gap = self.x - self.weights @ self.x
        return (gap * self.weights[:, None]).T @ gap

    @property
    def unseen(self) -> float:
        """Share of the evidence expected in ratios larger than any that was drawn.

        One draw in n would be there, with a mean ratio of the largest seen over 1 - k (the tail
        being that of Pareto index k). Where k exceeds 1/2 it is the better measure of the error.
        """
        if not self.k < 1:
            return math.inf
        largest = float(np.exp(self.log_ratios.max() - logsumexp(self.log_ratios)))
        return largest / (1 - max(self.k, 0.0))

    # ------------------------------------------------------------------ trust

    @property
    def n_calls(self) -> int:
        """Points at which the log density or its gradient was evaluated, fit and draws together.

        ``calls`` tells values from gradients, and counts batches and seconds.
        """
        return self.calls.total

    @property
    def reliable(self) -> bool:
        """Whether k allows the weighted draws to be used."""
        return self.k <= reliable_k(len(self.x))

    def forward_check(
        self, n_draws: int = 500, n_steps: int = 200, *, random_state: Any = None
    ) -> ForwardCheck:
        """Start Langevin chains from resampled draws; see :class:`ForwardCheck`.

        The result is kept, and :meth:`report` repeats it.
        """
        generator = self._generator(_CHECK, random_state)
        if self.reliable:
            start = self.resample(n_draws, random_state=random_state)
        else:
            inside = self.x[np.isfinite(self.log_p)]
            rows = torch.randperm(len(inside), generator=generator)[:n_draws].numpy()
            start = inside[rows]
        gap = start - start.mean(0)
        covariance = gap.T @ gap / len(gap) + 1e-10 * np.diag(gap.var(0) + 1e-300)
        root = torch.linalg.cholesky(torch.from_numpy(covariance))
        self.checked_ = forward_check(
            self.potential, torch.from_numpy(start), root, generator, int(n_steps)
        )
        return self.checked_

    def empty_modes(self, least: float = 0.01) -> list[tuple[np.ndarray, float, float]]:
        """Modes found by the Laplace search that hold far less weight than they should.

        Returns
        -------
        list of (mode (d,), Laplace share, share of weighted draws)
            For modes whose Laplace share is at least ``least`` and over five times their share of
            draws (each draw counts for the mode nearest in that mode's own curvature).
        """
        if self.laplace is None or len(self.laplace.modes) < 2:
            return []
        share = self.laplace.shares
        nearest = self.laplace.nearest(self.x)
        held = np.bincount(nearest, weights=self.weights, minlength=len(share))
        return [
            (self.laplace.modes[j], float(share[j]), float(held[j]))
            for j in range(len(share))
            if self.laplace.positive_definite[j] and share[j] >= least and held[j] < 0.2 * share[j]
        ]

    def report(self) -> str:
        """What the numbers mean, in words; what ``print(posterior)`` shows."""
        n, d = self.x.shape
        lines = [
            f"{n} weighted draws in dimension {d}",
            verdict(self.k, n),
            f"ESS / n = {self.efficiency:.3f}, ELBO {self.elbo}, log evidence {self.log_evidence}"
            + ("" if self.reliable else " (not to be trusted)"),
        ]
        if self.reliable and self.k > 0.5:
            lines.append(
                "k above 0.5: the ratios have no finite variance, and what stands behind +- (that "
                f"of the bridge too) is NO error bar. About {self.unseen:.1g} of the evidence lies "
                "where p/q is larger than at any draw, and a region that the fit all but misses "
                "can hold more. Compare another parametrisation or flow before trusting it."
            )
        if self.laplace is not None and len(self.laplace.modes) >= MOST_MODES:
            lines.append(
                f"The search for modes stopped at {MOST_MODES}: there may be many more, which no "
                "draw is in. Evidence and weights are those of the modes that were found."
            )
        outside = int((~np.isfinite(self.log_p)).sum())
        if outside:
            lines.append(f"{outside} draws lie outside the support of the target: weight 0.")
        for mode, share, held in self.empty_modes():
            where = ", ".join(f"{v:.3g}" for v in mode[:4]) + (", ..." if d > 4 else "")
            lines.append(
                f"LOST MODE: the search found a mode at [{where}] that should hold about "
                f"{share:.0%} of the mass, the draws give it {held:.0%}. k cannot see this: the "
                "weights are right only within the modes that have draws."
            )
        lines.append(f"{self.calls}.")
        checked = self.__dict__.get("checked_")
        if checked is not None:
            lines.append(str(checked))
        else:
            lines.append(
                "k cannot see modes that no draw is in: forward_check() looks at what the draws "
                "can reach."
            )
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.report()

    def __repr__(self) -> str:
        return f"<Posterior: {len(self.x)} draws, d={self.x.shape[1]}, k={self.k:.2f}>"

    # ------------------------------------------------------------------ going on

    def to_arviz(self, *, resampled: bool = False, random_state: Any = None) -> Any:
        """Draws and diagnostics for ArviZ; see :func:`skfokker.bayes.export.to_arviz`."""
        from .export import to_arviz

        return to_arviz(self, resampled=resampled, random_state=random_state)

    # ------------------------------------------------------------------ inside

    def _generator(self, stream: int, random_state: Any = None) -> torch.Generator:
        state = self.random_state if random_state is None else random_state
        return torch_generator(state, 1000 + stream)

    def _propose(
        self, n: int, stream: int, random_state: Any = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Fresh draws of q (n, d) and both log densities."""
        seed = int(torch.randint(2**62, (), generator=self._generator(stream, random_state)))
        with torch.no_grad():
            with Seeded(seed):
                x = self.law.sample((n,)).to("cpu", torch.float64)
            log_q = self._log_q(x)
        return x.numpy(), self._log_p(x), log_q.numpy()

    def _log_q(self, x: Tensor) -> Tensor:
        return ask(self.law.log_prob, x, "law").detach().to("cpu", torch.float64)

    def _log_p(self, x: Tensor) -> np.ndarray:
        with torch.no_grad():
            parts = [-self.potential(part).to("cpu", torch.float64) for part in x.split(_CHUNK)]
        log_p = torch.cat(parts).numpy()
        return np.where(np.isfinite(log_p), log_p, -np.inf)


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.tensordot(weights, values, axes=(0, 0))
