"""Many points downhill at once: L-BFGS with one batched call of the potential a step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_MEMORY = 20  # pairs of a step and a change of gradient
_ARMIJO = 1e-4


def descend(
    potential,
    starts: Tensor,
    *,
    n_iterations: int = 150,
    tolerance: float = 1e-7,
    watch: Callable[[int, Tensor, float], None] | None = None,
) -> Tensor:
    """Follow V downhill from every start.

    J. Nocedal, "Updating quasi-Newton matrices with limited storage" (1980), each row with a
    history of its own; a step that does not land lower is cut to a third, so that a row never
    leaves the support.

    Parameters
    ----------
    potential : Potential
    starts : Tensor (n, d)
        Where V and its gradient are finite.
    n_iterations : int
    tolerance : float
        A row rests once its relative fall has been smaller three times running.
    watch : callable, optional
        Told of a row, its new point and its fall so far whenever it has moved.

    Returns
    -------
    Tensor (k, n, d)
        The paths: where every row was after each iteration, the starts first.
    """
    x = starts.clone()
    n = len(x)
    value, gradient = _evaluate(potential, x)
    first, path = value.clone(), [x.clone()]
    steps: list[Tensor] = []
    changes: list[Tensor] = []
    inverse: list[Tensor] = []
    size = (1 / gradient.norm(dim=1).clamp_min(1e-300)).clamp_max(1.0)
    quiet = torch.zeros(n)
    active = gradient.abs().amax(1) > 1e-10
    for _ in range(n_iterations):
        if not active.any():
            break
        direction = -_inverse_hessian(gradient, steps, changes, inverse)
        slope = (direction * gradient).sum(1)
        uphill = ~(slope < 0)
        direction = torch.where(uphill[:, None], -gradient, direction)
        slope = torch.where(uphill, -gradient.square().sum(1), slope)
        rows = active.nonzero()[:, 0]
        trial = x[rows] + size[rows, None] * direction[rows]
        new_value, new_gradient = _evaluate(potential, trial)
        lower = new_value <= value[rows] + _ARMIJO * size[rows] * slope[rows]
        lower &= torch.isfinite(new_gradient).all(1)
        moved, failed = rows[lower], rows[~lower]
        step, change = torch.zeros_like(x), torch.zeros_like(x)
        step[moved] = trial[lower] - x[moved]
        change[moved] = new_gradient[lower] - gradient[moved]
        product = (step * change).sum(1)
        useful = product > 1e-10 * step.norm(dim=1) * change.norm(dim=1)
        steps.append(torch.where(useful[:, None], step, 0.0))
        changes.append(torch.where(useful[:, None], change, 0.0))
        inverse.append(torch.where(useful, 1 / product.clamp_min(1e-300), 0.0))
        steps, changes, inverse = steps[-_MEMORY:], changes[-_MEMORY:], inverse[-_MEMORY:]
        fall = value[moved] - new_value[lower]
        small = fall <= tolerance * (1 + value[moved].abs())
        quiet[moved] = torch.where(small, quiet[moved] + 1, 0.0)
        x[moved], value[moved], gradient[moved] = (
            trial[lower],
            new_value[lower],
            new_gradient[lower],
        )
        # where a slope does not bend, the steps grow
        size[moved] = torch.where(useful[moved], 1.0, 2 * size[moved])
        size[failed] /= 3
        if watch is not None:
            for k in moved.tolist():
                watch(k, x[k], float(first[k] - value[k]))
        length = size * direction.abs().amax(1)
        active &= (quiet < 3) & (length > 1e-13 * (1 + x.abs().amax(1)))
        active &= gradient.abs().amax(1) > 1e-10
        path.append(x.clone())
    return torch.stack(path)


def _evaluate(potential, x: Tensor) -> tuple[Tensor, Tensor]:
    """V and its gradient as float64; infinite where either is not finite."""
    value, gradient = potential.value_and_grad(x)
    value, gradient = value.detach().double(), gradient.detach().double()
    bad = ~(torch.isfinite(gradient).all(1) & ~torch.isnan(value))
    return torch.where(bad, torch.inf, value), gradient


def _inverse_hessian(gradient: Tensor, steps, changes, inverse) -> Tensor:
    """The two loops: an approximate inverse Hessian of every row times its gradient (n, d)."""
    q, kept = gradient.clone(), []
    for s, y, rho in zip(reversed(steps), reversed(changes), reversed(inverse), strict=True):
        alpha = rho * (s * q).sum(1)
        q = q - alpha[:, None] * y
        kept.append(alpha)
    scale = torch.ones_like(q[:, 0])
    for s, y, rho in zip(steps, changes, inverse, strict=True):  # that of the last useful pair
        scale = torch.where(rho > 0, (s * y).sum(1) / y.square().sum(1).clamp_min(1e-300), scale)
    q = scale[:, None] * q
    for s, y, rho, alpha in zip(steps, changes, inverse, reversed(kept), strict=True):
        beta = rho * (y * q).sum(1)
        q = q + (alpha - beta)[:, None] * s
    return q
