"""Turn what the user passed into a Potential, and watch it while the march runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from .adapters import CallablePotential, DistributionPotential
from .base import Potential, as_dimension
from .foreign import ask


class PotentialError(ValueError):
    """The potential, or its gradient, is not finite where the solution lives."""


class CheckedPotential(Potential):
    """A potential that complains where it is not finite.

    Parameters
    ----------
    potential : Potential
        The one that is asked.

    Attributes
    ----------
    time : float or None
        Time of the march, for the message; set by whoever marches.
    """

    _time: float | None = None

    def __init__(self, potential: Potential):
        self.potential = potential

    @property
    def time(self) -> float | None:
        return self._time

    @time.setter
    def time(self, t: float | None) -> None:
        self._time = t
        if not self.steady:
            self.potential.time = t

    @property
    def steady(self) -> bool:
        """Whether V does not depend on time."""
        return getattr(self.potential, "steady", True)

    @property
    def n_features_in_(self) -> int:
        return self.potential.n_features_in_

    @property
    def has_walls(self) -> bool:  # type: ignore[override]
        return self.potential.has_walls

    def __call__(self, x):
        """V at x (n, d).

        Raises
        ------
        PotentialError
            Where a value is NaN or infinite.
        """
        value = self.potential(x)
        self._check(value, x, "the potential")
        return value

    def value_and_grad(self, x):
        """V and grad V at x (n, d).

        Raises
        ------
        PotentialError
            Where a value or a gradient is NaN or infinite.
        """
        value, gradient = self.potential.value_and_grad(x)
        self._check(value, x, "the potential")
        self._check(gradient, x, "the gradient of the potential")
        return value, gradient

    def gradient(self, x):
        """grad V at x (n, d), with the same complaints."""
        if type(self.potential).gradient is Potential.gradient:
            return self.value_and_grad(x)[1]
        gradient = self.potential.gradient(x)
        self._check(gradient, x, "the gradient of the potential")
        return gradient

    def unchecked(self, x):
        """V and grad V at x (n, d), whatever they are: for points that may lie out of reach."""
        return self.potential.value_and_grad(x)

    @property
    def _unit_of_energy(self) -> float:  # type: ignore[override]
        return self.potential._unit_of_energy

    def _check(self, result: Tensor, x: Tensor, name: str) -> None:
        if torch.isfinite(result).all():
            return
        x = located(self.potential, x)
        when = "" if self.time is None else f" (time t = {self.time:g})"
        lost = ~torch.isfinite(x).all(1)
        if lost.any():
            raise PotentialError(
                f"{name} was asked at a point that is not finite, x = {_show(x[lost][0])}{when}: "
                f"the march has diverged; try a smaller tolerance or smaller steps"
            )
        rows = torch.isfinite(result.reshape(len(x), -1)).all(1).logical_not().nonzero()[:, 0]
        bad = result.reshape(len(x), -1)[rows[0]]
        what = "NaN" if torch.isnan(bad).any() else ("+inf" if (bad == torch.inf).any() else "-inf")
        raise PotentialError(
            f"{name} returned {what} at x = {_show(x[rows[0]])}{when}, and at {len(rows)} of "
            f"{len(x)} points in all; it has to be finite wherever the solution has mass, and that "
            "is all of R^d. Where V ends at a boundary, take coordinates that have none, such as "
            "log x for x > 0: skfokker.bayes.ConstrainedPotential(log_density, "
            "Blocks({'x': constraints.positive})) does so"
        )


def _show(point: Tensor, limit: int = 6) -> str:
    numbers = [f"{v:.4g}" for v in point.detach().reshape(-1)[:limit].tolist()]
    return "[" + ", ".join(numbers + (["..."] if point.numel() > limit else [])) + "]"


def _show_at(potential: Any, point: Tensor) -> str:
    """A point (d,) that a potential was asked at, in the coordinates of the user."""
    return _show(located(potential, point[None])[0])


def located(potential: Any, x: Tensor) -> Tensor:
    """Points (n, d) that a potential was asked at, in the coordinates of the user."""
    while potential is not None:
        x = potential.to_x(x) if hasattr(potential, "to_x") else x
        potential = getattr(potential, "potential", None)
    return x


def check_potential(
    potential: Any,
    n_features: int | None = None,
    beta: float = 1.0,
    *,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device = "cpu",
) -> Potential:
    """Make a :class:`Potential` of known dimension out of what the user passed.

    It is tried on a few points drawn from N(0, I); exceptions raised by the user's own code
    pass through.

    Parameters
    ----------
    potential : Potential, torch.distributions.Distribution or callable
        A callable maps a tensor (n, d) to a tensor (n,), differentiably. A distribution means
        V = -beta log_prob.
    n_features : int, optional
        Dimension d; taken from ``potential.n_features_in_`` where that exists.
    beta : float
        Diffusion coefficient, for distributions.
    dtype, device
        Of the points it is tried on.

    Returns
    -------
    Potential
        ``potential`` itself where it already is one, with ``n_features_in_``.

    Raises
    ------
    TypeError
        Where it is not callable, or returns anything but a tensor of real floats.
    ValueError
        Where the dimension is unknown or contradictory, the output has the wrong shape, or
        does not depend on the points (no gradient).
    """
    if isinstance(potential, Distribution):
        from .boundaries import refuse_periodic

        distribution, potential = potential, DistributionPotential(potential, beta)
        refuse_periodic(DistributionPotential(distribution), distribution)
    if isinstance(potential, type):
        raise TypeError(
            f"potential must be an object, got the class {potential.__name__}; "
            f"try potential={potential.__name__}(...)"
        )
    if not callable(potential):
        raise TypeError(
            f"potential must be a callable that maps a tensor (n, d) to a tensor (n,), or a "
            f"torch Distribution, got {_brief(potential)}"
        )
    known = getattr(potential, "n_features_in_", None)
    if n_features is None and known is None:
        raise ValueError(
            "n_features is None and the potential does not say its dimension; pass "
            "n_features=d, or give the potential an attribute n_features_in_"
        )
    d = as_dimension(known if n_features is None else n_features, "n_features")
    if known is not None and known != d:
        raise ValueError(
            f"n_features={d} contradicts potential.n_features_in_={known}; leave n_features out"
        )
    if not isinstance(potential, Potential) or known is None:
        _probe(potential, d, dtype, device)
        return CallablePotential(potential, d)
    _probe(potential, d, dtype, device)
    return potential


def _brief(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} (a {type(value).__name__})"


def _probe(potential: Any, d: int, dtype: torch.dtype, device: str | torch.device) -> None:
    """Try the potential on n points, n unlike d so that shapes cannot be mistaken."""
    n = 3 if d != 3 else 4
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, dtype=torch.float64, generator=generator)
    x = x.to(dtype=dtype, device=device)
    with torch.inference_mode(False), torch.enable_grad():
        x = x.clone().requires_grad_()
        value = potential(x) if isinstance(potential, Potential) else ask(potential, x)
    if not isinstance(value, Tensor):
        raise TypeError(
            f"potential must return a torch tensor of shape (n,), got {_brief(value)}; write it "
            f"with torch functions, or use NumpyPotential(value, gradient) for numpy code"
        )
    if tuple(value.shape) != (n,):
        raise ValueError(
            f"potential must return shape (n,) = ({n},) for points of shape (n, d) = ({n}, {d}), "
            f"got {tuple(value.shape)}; {_shape_hint(tuple(value.shape), n, d)}"
        )
    if not value.is_floating_point():
        raise TypeError(
            f"potential must return real floating-point numbers, got dtype {value.dtype}; try "
            f"{'the real part, .real' if value.is_complex() else '.to(x.dtype)'}"
        )
    gradient = None
    if value.requires_grad:
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(value.sum(), x, allow_unused=True)
    if gradient is None:
        raise ValueError(
            "the output of potential is detached from its argument, so it has no gradient; leave "
            "out .detach(), .item(), torch.no_grad() and numpy, use NumpyPotential(value, "
            "gradient) for numpy code (gradient='differences' where there is none), or Zero() for "
            "V = 0"
        )
    if isinstance(potential, Potential):
        _probe_gradient(potential, x.detach())


def _probe_gradient(potential: Potential, x: Tensor) -> None:
    """See that value_and_grad returns what it should at points x (n, d)."""
    pair = potential.value_and_grad(x)
    if not (isinstance(pair, tuple | list) and len(pair) == 2):
        raise TypeError(
            f"value_and_grad must return a pair (values, gradients), got {_brief(pair)}; leave it "
            "out for a gradient by automatic differentiation"
        )
    shapes = {"values": tuple(x.shape[:1]), "gradients": tuple(x.shape)}
    for part, (name, shape) in zip(pair, shapes.items(), strict=True):
        if not isinstance(part, Tensor) or part.dtype != x.dtype or tuple(part.shape) != shape:
            seen = f"{part.dtype} of shape {tuple(part.shape)}" if isinstance(part, Tensor) else ""
            raise TypeError(
                f"value_and_grad must return {name} as a torch tensor of shape {shape} and dtype "
                f"{x.dtype} for points of shape {tuple(x.shape)}, got {seen or _brief(part)}; try "
                ".reshape and .to(x.dtype) on the result"
            )


def check_answers(potential: Potential, device: str | torch.device = "cpu") -> None:
    """See that V is a function of one point: the same in every call and in all company.

    Raises
    ------
    ValueError
        Where two calls at the same points have different answers, or where the answer at a point
        depends on the other points of the call.
    """
    n = 8
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, potential.n_features_in_, dtype=torch.float64, generator=generator)
    x = x.to(device)
    with torch.no_grad():
        together, *again = (potential.value_and_grad(x.clone()) for _ in range(3))
        halves = [potential.value_and_grad(part.clone()) for part in x.split(n // 2)]
    for name, part in (("values", 0), ("gradients", 1)):
        first = together[part].double()
        finite = torch.isfinite(first)  # of the others the march complains
        size = torch.where(finite, first.abs(), 0.0).amax()
        for other in again:
            gap = torch.where(finite, other[part] - first, 0.0).abs().amax()
            if gap > 1e-6 * size:
                raise ValueError(
                    f"potential is not deterministic: at the same points its {name} differed by "
                    f"{float(gap):.2g} between two calls, with a size of {float(size):.2g}. Every "
                    "call must compute the same function: fix the random numbers or the "
                    "mini-batch inside it, and switch dropout off (module.eval())."
                )
        gap = torch.cat([half[part] for half in halves]) - first
        gap = torch.where(finite, gap, 0.0).abs().reshape(n, -1).amax(1)
        if gap.amax() > max(1e-6, 200 * rounding(first)) * size:
            k = int(gap.argmax())
            raise ValueError(
                f"potential depends on the other points of the call: at x = {_show(x[k])} its "
                f"{name} differed by {float(gap[k]):.2g} (size {float(size):.2g}) between a "
                f"call with {n} rows and one with {n // 2} of them. Each row must be a function of "
                "its own point alone: put modules in evaluation mode (batch norm: module.eval()), "
                "and leave out minima, means and normalisations over the batch (axis 0)."
            )


def rounding(value: Tensor) -> float:
    """Relative rounding of values, which may have been computed in float32."""
    gap = (value - value.float().to(value)).abs()
    single = (gap <= 8 * torch.finfo(torch.float64).eps * value.abs()).all()  # in other units, too
    return torch.finfo(torch.float32 if single else value.dtype).eps


def _shape_hint(shape: tuple[int, ...], n: int, d: int) -> str:
    if shape == (n, 1):
        return "try .squeeze(1) on the result"
    if shape in ((n, d), (1, n)):
        return "try .sum(1) on the result" if shape == (n, d) else "try .squeeze(0) on the result"
    if shape == (d,):
        return "it was summed over the points: try .sum(1), not .sum(0)"
    if shape == ():
        return "it was summed over the points: try .sum(1), or torch.vmap(potential)"
    return "the first axis is the points, the second the coordinates"
