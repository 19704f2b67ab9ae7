"""The stored march: times, parameters, velocities, and the law at every time between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from .distribution import TransportedNormal
from .flows.base import Flow
from .schemes.base import Step


@dataclass(frozen=True)
class Trajectory:
    """theta(t) as a cubic Hermite spline through the stored steps, and the laws it describes.

    Attributes
    ----------
    times : ndarray (k,)
        Increasing.
    thetas, velocities : ndarray (k, m)
        Parameters and their time derivatives at ``times``.
    flow : Flow
        The family of maps.
    d : int
        Dimension.
    device : torch.device
        Where the laws are computed.
    """

    times: np.ndarray
    thetas: np.ndarray
    velocities: np.ndarray
    flow: Flow
    d: int
    device: torch.device = torch.device("cpu")

    @classmethod
    def from_steps(cls, steps: Sequence[Step], flow: Flow, d: int, device=None) -> Trajectory:
        """Collect the steps of a march; missing velocities become second-order differences."""
        times = np.array([step.t for step in steps], dtype=float)
        thetas = np.stack([_numpy(step.theta) for step in steps])
        missing = [k for k, step in enumerate(steps) if step.velocity is None]
        velocities = np.empty_like(thetas)
        for k, step in enumerate(steps):
            if step.velocity is not None:
                velocities[k] = _numpy(step.velocity)
        if missing:
            velocities[missing] = finite_differences(times, thetas)[missing]
        return cls(times, thetas, velocities, flow, d, device or torch.device("cpu"))

    def rows(self, rows: slice) -> Trajectory:
        """Some of the stored times, as a march of their own."""
        times, thetas, velocities = self.times[rows], self.thetas[rows], self.velocities[rows]
        return replace(self, times=times, thetas=thetas, velocities=velocities)

    def followed_by(self, later: Trajectory) -> Trajectory:
        """This march and one that starts where it ends, as one."""
        return Trajectory(
            np.concatenate([self.times[:-1], later.times]),
            np.concatenate([self.thetas[:-1], later.thetas]),
            np.concatenate([self.velocities[:-1], later.velocities]),
            self.flow,
            self.d,
            later.device,
        )

    def at(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """theta(t) and theta'(t), each (m,); t must lie within the stored times."""
        times, thetas, velocities = self.times, self.thetas, self.velocities
        if not times[0] <= t <= times[-1]:
            raise ValueError(f"t = {t:g} is outside the stored span [{times[0]:g}, {times[-1]:g}].")
        if len(times) == 1:
            return thetas[0].copy(), velocities[0].copy()
        k = min(int(np.searchsorted(times, t, side="right")) - 1, len(times) - 2)
        h = times[k + 1] - times[k]
        s = (t - times[k]) / h
        rise = thetas[k + 1] - thetas[k]
        before, after = velocities[k], velocities[k + 1]
        theta = (
            (1 + 2 * s) * (1 - s) ** 2 * thetas[k]
            + s**2 * (3 - 2 * s) * thetas[k + 1]
            + h * s * (1 - s) * ((1 - s) * before - s * after)
        )
        dtheta = (
            6 * s * (1 - s) * rise / h + (1 - s) * (1 - 3 * s) * before + s * (3 * s - 2) * after
        )
        return theta, dtheta

    def law(self, t: float) -> TransportedNormal:
        """The law at time t."""
        return TransportedNormal(self.flow, self._tensor(self.at(t)[0]), self.d)

    def sample_from(self, z: Tensor, t: float | np.ndarray | Tensor) -> Tensor:
        """Latent points z (n, d) pushed to time t, a number or one time a row (n,)."""
        return self._by_time(lambda law, z, _: law.push(z), z, t)

    def paths(self, z: Tensor, times: Sequence[float] | np.ndarray) -> np.ndarray:
        """Curves (k, n, d) that follow :meth:`velocity`, from latent points z (n, d) at the start.

        A family whose velocity is the tangent of its map carries z along exactly. For others
        dx/dt = velocity(x, t) is integrated from the points of z at the first stored time, from
        one stored time to the next, by Dormand-Prince with a local error of 1e-6 of the spread.
        """
        times = np.asarray(times, dtype=float)
        if not self.flow.moves_otherwise:
            return np.stack([self.sample_from(z, t).detach().cpu().numpy() for t in times])
        x = self.sample_from(z, float(self.times[0])).detach()
        out, nodes = np.empty((len(times), *x.shape)), np.unique(self.times)
        out[times <= nodes[0]] = x.cpu().numpy()
        flat = x.cpu().numpy().ravel()
        spread = float(flat.std()) or 1.0

        def rate(t, flat):
            return self.velocity(self._tensor(flat.reshape(x.shape)), t).cpu().numpy().ravel()

        for start, end in zip(nodes[:-1], nodes[1:], strict=True):
            here = (times > start) & (times <= end)
            if not (times > start).any():
                break
            wanted, index = np.unique(np.append(times[here], end), return_inverse=True)
            solved = solve_ivp(
                rate, (start, end), flat, t_eval=wanted, first_step=end - start,
                rtol=1e-6, atol=1e-6 * spread,
            )  # fmt: skip
            if not solved.success:
                raise ArithmeticError(f"Paths could not be followed beyond t = {start:g}.")
            out[here] = solved.y.T[index[:-1]].reshape(-1, *x.shape)
            flat = solved.y[:, -1]
        return out

    def latent(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Points x (n, d) pulled back from time t to the reference N(0, I)."""
        return self._by_time(lambda law, x, _: law.pull(x), x, t)

    def log_density(self, x: Tensor, t: float | Tensor) -> Tensor:
        """log rho(t, x) at x (n, d), shape (n,)."""
        return self._by_time(lambda law, x, _: law.log_prob(x), x, t)

    def score(self, x: Tensor, t: float | Tensor) -> Tensor:
        """grad log rho(t, x) at x (n, d)."""
        return self._by_time(lambda law, x, _: law.score(x), x, t)

    def velocity(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Velocity of the law of the stored march at x (n, d).

        d rho/dt = -div(rho velocity) holds exactly for the law at every t, also between the
        stored times. It is the tangent (dT/dtheta) theta'(t) of the map, or what the family gives
        in its place (:meth:`skfokker.flows.Flow.law_velocity`).
        """
        return self._by_time(lambda law, x, dtheta: law.velocity(x, dtheta), x, t)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(array, dtype=torch.float64, device=self.device)

    @torch.no_grad()
    def _by_time(
        self, work: Callable[[TransportedNormal, Tensor, Tensor], Tensor], x: Tensor, t
    ) -> Tensor:
        """Apply ``work(law, points, theta')`` to the rows of x, grouped by their times."""

        def at_one_time(t, x):
            theta, dtheta = (self._tensor(a) for a in self.at(t))
            return work(TransportedNormal(self.flow, theta, self.d), x, dtheta)

        if np.ndim(t) == 0:
            return at_one_time(float(t), x)
        distinct, group = np.unique(np.asarray(t), return_inverse=True)
        order = torch.as_tensor(np.argsort(group, kind="stable"), device=x.device)
        ends = np.cumsum(np.bincount(group))[:-1]
        rows = torch.tensor_split(order, [int(e) for e in ends])
        parts = [
            at_one_time(float(one_time), x[index])
            for one_time, index in zip(distinct, rows, strict=True)
        ]
        out = parts[0].new_empty(len(x), *parts[0].shape[1:])
        out[order] = torch.cat(parts)
        return out


def finite_differences(times: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Time derivatives of values (k, m) at uneven times (k,), second order where k allows it."""
    if len(times) == 1:
        return np.zeros_like(values)
    order: Literal[1, 2] = 2 if len(times) > 2 else 1
    return np.gradient(values, times, axis=0, edge_order=order)


def _numpy(theta: Tensor) -> np.ndarray:
    return theta.detach().to("cpu", torch.float64).numpy()
