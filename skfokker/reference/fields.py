"""What references ask of an equation: its drift, diffusion and interaction as they were given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..dynamics.coordinates import ChangedDrift
from ..dynamics.diffusion import Diffusion
from ..dynamics.drift import Drift, Interaction
from ..dynamics.reading import is_equation, read_equation
from ..dynamics.timed import TimedPotential
from ..potentials import Potential, check_potential


@dataclass(frozen=True)
class Fields:
    """The terms of dX = (b - E[grad W(x - X')]) dt + sigma dB, D = sigma sigma^T / 2.

    Attributes
    ----------
    drift : Drift
    diffusion : Diffusion
    interaction : Interaction or None
    """

    drift: Drift | ChangedDrift
    diffusion: Diffusion
    interaction: Interaction | None = None

    @property
    def d(self) -> int:
        """Dimension."""
        return self.drift.d

    @property
    def steady(self) -> bool:
        """Whether neither drift nor diffusion depends on time."""
        return self.drift.steady and self.diffusion.steady

    def drift_at(self, x: np.ndarray, t: float) -> np.ndarray:
        """b (n, d) at points x (n, d).

        Raises
        ------
        ValueError
            Where it is not finite.
        """
        with torch.no_grad():
            return _finite(self.drift(torch.from_numpy(x), t).numpy(), x, t, "drift")

    def diffusion_at(self, x: np.ndarray, t: float) -> np.ndarray:
        """D (n, d, d) at points x (n, d).

        Raises
        ------
        ValueError
            Where it is not finite.
        """
        with torch.no_grad():
            value = self.diffusion.matrix(torch.from_numpy(x), t).expand(len(x), -1, -1)
        return _finite(value.numpy(), x, t, "diffusion")


def _finite(value: np.ndarray, x: np.ndarray, t: float, name: str) -> np.ndarray:
    bad = ~np.isfinite(value.reshape(len(x), -1)).all(1)
    if bad.any():
        raise ValueError(
            f"{name} is not finite at x = {x[bad][0].tolist()}, t = {t:g}; pass a domain on which "
            "it is finite"
        )
    return value


def read(
    given: Any, d: int | None, beta: float, horizon: float, *, inside: bool = False
) -> tuple[Potential | Fields, float]:
    """A potential that does not move and its D, or the fields of any other equation.

    Parameters
    ----------
    given : Potential, callable or Equation
        As for ``fit``.
    d : int or None
        Dimension, where ``given`` does not say it.
    beta : float
        D where the equation does not say it.
    horizon : float
        Last time of interest.
    inside : bool
        Whether an equation with a support is taken, as that of y on the whole line.

    Raises
    ------
    ValueError
        Where it has one and is not.
    """
    if getattr(given, "support", None) is not None and not inside:
        raise ValueError(
            "grids and moments are of the whole line, but this equation has a support: leave "
            "support out and give a domain inside it, or write the equation in y; langevin() takes "
            "it as it is."
        )
    if not is_equation(given):
        return check_potential(given, d, beta), beta
    equation, number = read_equation(
        given, n_features=d, beta=beta, mean=None, horizon=horizon, device=torch.device("cpu")
    )
    if getattr(equation, "porous", None) is not None:
        raise ValueError(
            "the grids and particles of skfokker.reference are for diffusion of rho itself, not of "
            f"a power (porous={equation.porous:g}); Barenblatt is the exact solution of the porous "
            "medium equation without a drift."
        )
    if isinstance(equation, TimedPotential):
        drift = Drift(equation.n_features_in_, equation.function)
        return Fields(drift, Diffusion(number, drift.d)), number
    if isinstance(equation, Potential):
        return equation, number
    return Fields(*equation.terms), number


def read_fields(
    given: Any, d: int | None, beta: float, horizon: float, *, inside: bool = False
) -> Fields:
    """The fields of any equation, those of a potential included; see :func:`read`."""
    potential, number = read(given, d, beta, horizon, inside=inside)
    if isinstance(potential, Fields):
        return potential
    d = potential.n_features_in_
    return Fields(Drift(d, potential), Diffusion(number, d))
