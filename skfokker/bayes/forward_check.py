"""A check that importance weights cannot give: do draws stay where they are under the target?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class ForwardCheck:
    """What short Metropolis-adjusted Langevin chains did to the draws.

    Attributes
    ----------
    before, after : ndarray (n, d)
        Draws, and where their chains ended.
    acceptance : float
        Of the Langevin proposals.
    shift : ndarray (d,)
        Change of the means, in standard deviations.
    shift_error : ndarray (d,)
        Its standard error.
    scale : ndarray (d,)
        Ratio of standard deviations, after over before.
    mass_before, mass_after : ndarray (k,)
        Share of draws in each mode, most massive first (by the mass after).
    modes : ndarray (k, d)
        One point of high density of each.
    """

    before: np.ndarray
    after: np.ndarray
    acceptance: float
    shift: np.ndarray
    shift_error: np.ndarray
    scale: np.ndarray
    mass_before: np.ndarray
    mass_after: np.ndarray
    modes: np.ndarray

    @property
    def moved(self) -> float:
        """Mass that went from one mode to another, net: half the sum of absolute changes."""
        return float(0.5 * np.abs(self.mass_after - self.mass_before).sum())

    @property
    def moved_error(self) -> float:
        """What :attr:`moved` would be about by chance."""
        n, mass = len(self.before), self.mass_after
        return float(0.5 * np.sqrt(2 * mass * (1 - mass) / n).sum())

    @property
    def drifted(self) -> bool:
        """Whether some mean moved by more than 0.1 sd, beyond chance, or some sd by 20 %."""
        significant = np.abs(self.shift) > 0.1 + 3 * self.shift_error
        noise = 3 / math.sqrt(len(self.before))
        return bool(significant.any() or (np.abs(np.log(self.scale)) > 0.2 + noise).any())

    def __str__(self) -> str:
        lines = []
        worst = int(np.argmax(np.abs(self.shift)))
        drift = (
            f"means moved by at most {abs(self.shift[worst]):.2f} +- {self.shift_error[worst]:.2f} "
            f"sd (coordinate {worst}), sds by factors from {self.scale.min():.2f} to "
            f"{self.scale.max():.2f}"
        )
        lines.append(
            f"forward check: {len(self.before)} Langevin chains (acceptance "
            f"{self.acceptance:.2f}): {drift}: "
            + ("the draws are NOT stationary; do not use." if self.drifted else "stationary.")
        )
        if len(self.modes) > 1:
            before, after = (
                ", ".join(f"{m:.2f}" for m in mass[:8]) + (", ..." if len(mass) > 8 else "")
                for mass in (self.mass_before, self.mass_after)
            )
            lines.append(
                f"  {len(self.modes)} modes with masses {before} before and {after} after: "
                f"{self.moved:.2f} of the mass moved (by chance about {self.moved_error:.2f}). "
                "Chains this short do not weigh distant modes against each other."
            )
        return "\n".join(lines)


def forward_check(
    potential,
    draws: Tensor,
    root: Tensor,
    generator: torch.Generator,
    n_steps: int = 200,
    find_modes: bool = True,
) -> ForwardCheck:
    """Run Metropolis-adjusted Langevin chains from draws (n, d) and compare.

    Parameters
    ----------
    potential : Potential
        V = -log density; infinite outside the support.
    draws : Tensor (n, d)
        Equally weighted.
    root : Tensor (d, d)
        L with L L^T the covariance in whose metric the chains move.
    generator : torch.Generator
    n_steps : int
    find_modes : bool
        Group the draws by the mode they descend to.
    """
    after, acceptance = langevin(potential, draws, root, generator, n_steps)
    spread = draws.std(0).clamp_min(1e-300)
    change = (after - draws) / spread
    if find_modes:
        modes, labels = modes_of(potential, torch.cat([draws, after]), root)
    else:
        modes, labels = draws[:1], torch.zeros(2 * len(draws), dtype=torch.long)
    before_count, after_count = (
        torch.bincount(part, minlength=len(modes)).double() / len(draws)
        for part in (labels[: len(draws)], labels[len(draws) :])
    )
    order = torch.argsort(after_count, descending=True)
    return ForwardCheck(
        draws.numpy(),
        after.numpy(),
        acceptance,
        change.mean(0).numpy(),
        (change.std(0) / math.sqrt(len(draws))).numpy(),
        (after.std(0) / spread).numpy(),
        before_count[order].numpy(),
        after_count[order].numpy(),
        modes[order].numpy(),
    )


def langevin(
    potential, x: Tensor, root: Tensor, generator: torch.Generator, n_steps: int
) -> tuple[Tensor, float]:
    """Metropolis-adjusted Langevin from every row of x; the step adapts in the first half.

    In the metric of ``root``; stationary for exp(-V). Returns the last states and the acceptance of
    the second half.
    """
    n, d = x.shape

    def evaluate(x):
        value, gradient = potential.value_and_grad(x)
        outside = ~(torch.isfinite(value) & torch.isfinite(gradient).all(1))
        value = torch.where(outside, torch.inf, value)
        return value, torch.where(outside[:, None], 0.0, gradient @ root)

    value, slope = evaluate(x)
    log_step, accepted = math.log(1.0 / d ** (1 / 3)), []
    for k in range(n_steps):
        h = math.exp(log_step)
        noise = torch.randn(n, d, generator=generator, dtype=x.dtype)
        move = -h * slope + math.sqrt(2 * h) * noise
        proposal = x + move @ root.T
        new_value, new_slope = evaluate(proposal)
        back = -move + h * new_slope
        log_ratio = (
            value - new_value - (back.square().sum(1) - 2 * h * noise.square().sum(1)) / (4 * h)
        )
        chance = torch.nan_to_num(log_ratio.clamp_max(0).exp(), nan=0.0)
        yes = torch.rand(n, generator=generator, dtype=x.dtype) < chance
        x = torch.where(yes[:, None], proposal, x)
        slope = torch.where(yes[:, None], new_slope, slope)
        value = torch.where(yes, new_value, value)
        if k < n_steps // 2:
            log_step += (float(chance.mean()) - 0.57) / math.sqrt(k + 1)
        else:
            accepted.append(float(chance.mean()))
    return x, float(np.mean(accepted))


def modes_of(
    potential, x: Tensor, root: Tensor, n_iterations: int = 60, max_modes: int = 64
) -> tuple[Tensor, Tensor]:
    """Group points (n, d) by the basin they descend into: representatives (k, d), labels (n,).

    Descent is by signed steps that adapt coordinate by coordinate (resilient propagation), in the
    metric of ``root``. Two end points belong to one mode where the potential along the segment
    between them rises by less than 1 above the higher of them: no barrier.
    """
    y = torch.linalg.solve_triangular(root, x.T, upper=False).T
    step = torch.full_like(y, 0.1)
    best, best_value = y.clone(), torch.full_like(y[:, 0], torch.inf)
    before = torch.zeros_like(y)
    for _ in range(n_iterations):
        value, slope = potential.value_and_grad(y @ root.T)
        value = torch.where(torch.isfinite(value), value, torch.inf)
        slope = torch.nan_to_num(slope @ root, posinf=0.0, neginf=0.0)
        better = value < best_value
        best = torch.where(better[:, None], y, best)
        best_value = torch.where(better, value, best_value)
        agreement = torch.sign(slope * before)
        factor = torch.where(agreement > 0, 1.3, torch.where(agreement < 0, 0.5, 1.0))
        step = (step * factor).clamp(1e-6, 0.5)
        y = y - step * torch.sign(slope)
        before = slope
    labels = torch.full((len(x),), -1)
    modes: list[Tensor] = []
    parts = torch.linspace(0, 1, 11, dtype=x.dtype)[1:-1]
    while (labels < 0).any() and len(modes) < max_modes:
        free = (labels < 0).nonzero()[:, 0]
        head = free[best_value[free].argmin()]
        between = best[head] + parts[:, None, None] * (best[free] - best[head])
        values = potential(between.reshape(-1, x.shape[1]) @ root.T).detach()
        rise = torch.nan_to_num(values, nan=torch.inf).reshape(len(parts), -1).amax(0)
        joined = rise - best_value[free] < 1.0
        joined |= free == head
        labels[free[joined]] = len(modes)
        modes.append(best[head])
    labels[labels < 0] = len(modes) - 1
    return torch.stack(modes) @ root.T, labels
