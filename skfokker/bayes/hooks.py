"""What the estimator calls: its law as a Posterior, and a start by Laplace."""

from __future__ import annotations

from typing import Any

from ..initial import Gaussian
from ..potentials import Potential
from .laplace import laplace
from .posterior import Posterior


class Tempered(Potential):
    """V / beta: the equilibrium exp(-V / beta) as a density exp(-V).

    Parameters
    ----------
    potential : Potential
    beta : float
    """

    def __init__(self, potential: Potential, beta: float):
        self.potential = potential
        self.beta = beta

    @property
    def n_features_in_(self) -> int:
        return self.potential.n_features_in_

    def __call__(self, x):
        return self.potential(x) / self.beta

    def value_and_grad(self, x):
        value, gradient = self.potential.value_and_grad(x)
        return value / self.beta, gradient / self.beta


def tempered(potential: Potential, beta: float) -> Potential:
    """V / beta, and V itself for beta = 1."""
    return potential if beta == 1 else Tempered(potential, float(beta))


def posterior_of(
    estimator: Any, n_draws: int = 4000, *, t: float | None = None, random_state: Any = None
) -> Posterior:
    """The law of a fitted estimator at time t as a :class:`Posterior` for exp(-V / beta).

    Parameters
    ----------
    estimator : ParametricFokkerPlanck
    n_draws : int
    t : float, optional
        ``t_final_`` where not given. Before equilibrium the weights are those towards it.
    random_state : int, RandomState instance or None
        None takes that of the estimator.
    """
    state = estimator.random_state if random_state is None else random_state
    return Posterior(
        tempered(estimator.potential_, estimator.beta),
        estimator.at(t),
        n_draws,
        random_state=state,
    )


def laplace_start(potential: Potential, beta: float = 1.0, random_state: Any = None) -> Gaussian:
    """The Gaussian that ``initial="laplace"`` stands for."""
    return laplace(tempered(potential, beta), random_state=random_state).gaussian()
