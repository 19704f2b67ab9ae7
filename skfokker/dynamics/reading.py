"""From what the user handed in to the equation that is marched."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..potentials import Potential, check_potential
from ..potentials.checks import check_answers
from .coordinates import InsideDiffusion, InsideDrift
from .diffusion import Diffusion
from .drift import Drift, Interaction
from .ends import look_at_ends
from .equation import Equation
from .general import GeneralFokkerPlanck
from .lipschitz import Lipschitz
from .support import Support
from .terms import Term, not_finite, same_rows, takes_time
from .timed import GradientDrift, TimedPotential

_N_POINTS = 8
_SYMMETRIC = 1e-7  # relative size of what is nothing in an antisymmetric part
_DIFFERENCE = 1e-4


def is_equation(given: Any) -> bool:
    """Whether ``fit`` was handed an equation: an Equation, or a potential V(x, t)."""
    if isinstance(given, Equation):
        return True
    plain = callable(given) and not isinstance(given, type | Potential)
    return plain and takes_time(given, "the potential")


def read_support(given: Any, d: int) -> Support | None:
    """Where the coordinates of what ``fit`` was handed live; None for the whole space."""
    return given.read_support(d) if isinstance(given, Equation) else None


def read_equation(
    given: Any,
    *,
    n_features: int | None,
    beta: float,
    mean: Tensor | None,
    horizon: float | None,
    device: torch.device,
) -> tuple[Potential | GeneralFokkerPlanck, float]:
    """A potential with its beta where the equation is a gradient flow; the equation otherwise.

    Where it has a support it is the equation of y on the whole line; see
    :class:`skfokker.dynamics.support.Support`.

    Parameters
    ----------
    given : Equation or callable
        A callable is a potential V(x, t).
    n_features : int or None
    beta : float
        D where the equation does not say it.
    mean : Tensor (d,) or None
        Of the start (of y), where that is a Gaussian with a mean of its own.
    horizon : float or None
    device : torch.device

    Raises
    ------
    TypeError, ValueError
        With a sentence on the argument that is not what it should be.
    """
    equation = given if isinstance(given, Equation) else Equation(given)
    equation.check()
    d = equation.dimension(n_features, None if mean is None else len(mean))
    diffusion = Diffusion(beta if equation.diffusion is None else equation.diffusion, d)
    interaction = None
    if equation.interaction is not None:
        interaction = Interaction(equation.interaction, d)
    fields = [(equation.drift, "drift"), (equation.force, "force")]
    fields = [(field, name) for field, name in fields if field is not None]
    times = [0.0] if horizon is None else [0.0, 0.37 * horizon, horizon]
    support = read_support(equation, d)
    plain = support is None and interaction is None and equation.porous is None
    if plain and diffusion.number:
        potential = _as_potential(equation, fields, d, device, times)
        if potential is not None:
            return potential, diffusion.number
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(_N_POINTS, d, dtype=torch.float64, generator=generator).to(device)
    if mean is not None:
        x = x + mean.to(x)
    drift: Drift | InsideDrift
    if support is None:
        drift = Drift(d, _readable(equation.potential, d, device), fields)
        regular = Diffusion.is_definite(_look_at(drift, diffusion, x, times))
    else:
        drift = Drift(d, equation.potential, fields)
        inside = InsideDiffusion(diffusion, support)
        drift, diffusion = InsideDrift(drift, inside), inside
        regular = Diffusion.is_definite(_look_at(drift, diffusion, x, times))
        look_at_ends(drift, x, times)
        diffusion = inside.settled(x, times)
        if diffusion.number and drift.steady and _is_gradient(drift, d, device):
            return GradientDrift(drift.at_rest, d), diffusion.number
    general = GeneralFokkerPlanck(
        drift, diffusion, interaction, regular=regular, porous=equation.porous
    )
    if interaction is not None and equation.lipschitz is not None:
        assert isinstance(drift, Drift)  # an interaction and a support do not go together
        general.lipschitz = Lipschitz.of(equation.lipschitz, equation.potential, not fields)
        general.lipschitz.check(drift, interaction, x, times)
    return general, float("nan")


def _look_at(drift, diffusion, x: Tensor, times) -> float:
    """Check all functions at points and times; the share of :meth:`Diffusion.check`."""
    where, least = drift.where(x), 1.0
    for t in times:
        for term in drift.terms:
            value = term(where, t)
            if not torch.isfinite(value).all():
                raise not_finite(value, where, t, term.name)
            same_rows(term, where, t)
        if diffusion.term is not None:
            same_rows(diffusion.term, where, t)
        least = min(least, diffusion.check(x, t))
    return least


def _readable(potential: Any, d: int, device: torch.device) -> Any:
    """A potential that is no function of time is read as that of ``fit``."""
    if potential is None or takes_time(potential, "the potential"):
        return potential
    potential = check_potential(potential, d, device=device)
    check_answers(potential, device)
    return potential


def _as_potential(equation, fields, d, device, times) -> Potential | None:
    """The potential of an equation that is a gradient flow; None where it is none."""
    if not fields and equation.potential is not None:
        potential = equation.potential
        if not takes_time(potential, "the potential"):
            return _readable(potential, d, device)
        timed = TimedPotential(potential, d)
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(_N_POINTS, d, dtype=torch.float64, generator=generator).to(device)
        for t in times:
            value = timed.term(x, t)
            if not torch.isfinite(value).all():
                raise not_finite(value, x, t, "the potential")
            same_rows(timed.term, x, t)
        return timed
    if equation.drift is None or equation.potential is not None:
        return None
    drift = Term(equation.drift, "drift", d, ("nd",))
    if not drift.steady or not _is_gradient(drift, d, device):
        return None
    return GradientDrift(equation.drift, d)


def _is_gradient(drift: Any, d: int, device: torch.device) -> bool:
    """Whether a steady drift has a symmetric Jacobian wherever it was looked at."""
    generator = torch.Generator().manual_seed(2)
    sizes = torch.tensor([0.3, 1.0, 1.0, 3.0, 3.0, 6.0])
    x = torch.randn(len(sizes), d, dtype=torch.float64, generator=generator) * sizes[:, None]
    same_rows(drift, x.to(device), 0.0)
    shifts = _DIFFERENCE * torch.eye(d, dtype=torch.float64)
    for point in x:
        moved = torch.cat([point + shifts, point - shifts]).to(device)
        above, below = drift(moved, 0.0).chunk(2)
        jacobian = (above - below) / (2 * _DIFFERENCE)
        size = float(jacobian.abs().max())
        if not np.isfinite(size) or size == 0:
            continue
        if float((jacobian - jacobian.T).abs().max()) > _SYMMETRIC * size:
            return False
    return True
