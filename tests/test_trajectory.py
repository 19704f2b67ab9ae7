"""The stored march: interpolation, and the law between the stored times."""

import numpy as np
import pytest
import torch

from skfokker.flows import AffineFlow, Composition, ElementwiseFlow, TriangularFlow
from skfokker.schemes.base import Step
from skfokker.trajectory import Trajectory, finite_differences

FLOW = Composition([ElementwiseFlow(8), TriangularFlow(6), AffineFlow()])


def curve(t, m):
    """A smooth theta(t) and its derivative."""
    phase = np.arange(m)
    return 0.3 * np.sin(t + phase), 0.3 * np.cos(t + phase)


def steps(times, m, with_velocity=True):
    for t in times:
        theta, velocity = (torch.as_tensor(a) for a in curve(t, m))
        yield Step(float(t), theta, velocity if with_velocity else None)


def march(n_times=6, d=2, with_velocity=True):
    times = np.linspace(0, 1, n_times) ** 1.5
    made = list(steps(times, FLOW.n_parameters(d), with_velocity))
    return Trajectory.from_steps(made, FLOW, d)


def points(n, d, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


def test_stored_times_are_met_to_the_bit():
    trajectory = march()
    for k, t in enumerate(trajectory.times):
        theta, velocity = trajectory.at(t)
        assert (theta == trajectory.thetas[k]).all()
        np.testing.assert_allclose(velocity, trajectory.velocities[k], rtol=1e-12, atol=1e-12)


def test_cubics_are_interpolated_exactly():
    def cubic(t):
        return np.array([1 - 2 * t + t**3, 4 * t**2])

    def slope(t):
        return np.array([-2 + 3 * t**2, 8 * t])

    times = np.array([0, 0.3, 0.4, 1.0])
    trajectory = Trajectory(
        times, np.stack([cubic(t) for t in times]), np.stack([slope(t) for t in times]), FLOW, 1
    )
    for t in np.linspace(0, 1, 23):
        theta, velocity = trajectory.at(t)
        np.testing.assert_allclose(theta, cubic(t), atol=1e-13)
        np.testing.assert_allclose(velocity, slope(t), atol=1e-12)


def test_interpolation_is_of_fourth_order():
    def error(k):
        trajectory = Trajectory.from_steps(list(steps(np.linspace(0, 1, k), 5)), FLOW, 1)
        middles = np.linspace(0, 1, 997)
        return max(np.abs(trajectory.at(t)[0] - curve(t, 5)[0]).max() for t in middles)

    assert 3.8 < np.log2(error(9) / error(17)) < 4.2


def test_missing_velocities_become_second_order_differences():
    def error(k):
        times = np.linspace(0, 1, k) ** 1.2
        made = list(steps(times, 5, with_velocity=False))
        exact = np.stack([curve(t, 5)[1] for t in times])
        return np.abs(Trajectory.from_steps(made, FLOW, 1).velocities - exact).max()

    assert error(33) < error(17) / 3


def test_finite_differences_of_one_and_two_times():
    assert (finite_differences(np.array([0.0]), np.ones((1, 3))) == 0).all()
    two = finite_differences(np.array([0.0, 2.0]), np.array([[1.0], [5.0]]))
    np.testing.assert_allclose(two, [[2.0], [2.0]])


def test_one_step_is_a_law_that_stands_still():
    trajectory = Trajectory.from_steps(list(steps([0.0], FLOW.n_parameters(2))), FLOW, 2)
    assert (trajectory.at(0.0)[0] == trajectory.thetas[0]).all()
    with pytest.raises(ValueError, match="outside"):
        trajectory.at(0.1)


@pytest.mark.parametrize("t", [0.0, 0.37, 1.0])
def test_law_and_velocity_satisfy_the_continuity_equation(t):
    """d log rho/dt + div v + v . grad log rho = 0 at points between the stored times."""
    trajectory, x, step = march(), points(12, 2), 1e-5
    before, after = max(t - step, 0.0), min(t + step, 1.0)
    rate = (trajectory.log_density(x, after) - trajectory.log_density(x, before)) / (after - before)
    middle = (before + after) / 2
    divergence = 0
    for i, e in enumerate(torch.eye(2, dtype=torch.float64) * step):
        rise = trajectory.velocity(x + e, middle) - trajectory.velocity(x - e, middle)
        divergence = divergence + rise[:, i] / (2 * step)
    transport = (trajectory.velocity(x, middle) * trajectory.score(x, middle)).sum(1)
    torch.testing.assert_close(rate, -divergence - transport, rtol=1e-5, atol=1e-5)


def test_velocity_moves_the_samples():
    trajectory, z, step = march(), points(12, 2), 1e-5
    x = trajectory.sample_from(z, 0.4)
    moved = trajectory.sample_from(z, 0.4 + step) - trajectory.sample_from(z, 0.4 - step)
    torch.testing.assert_close(
        trajectory.velocity(x, 0.4), moved / (2 * step), rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize("method", ["sample_from", "latent", "log_density", "score", "velocity"])
def test_one_time_a_row(method):
    trajectory, x = march(), points(9, 2)
    t = np.array([0.3, 0.0, 1.0, 0.3, 0.7, 0.7, 0.0, 0.3, 0.55])
    together = getattr(trajectory, method)(x, t)
    for k, one in enumerate(t):
        alone = getattr(trajectory, method)(x[k : k + 1], float(one))[0]
        torch.testing.assert_close(together[k], alone, rtol=1e-12, atol=1e-12)


def test_two_marches_in_a_row_are_one():
    times = np.linspace(0, 1, 7)
    made = list(steps(times, FLOW.n_parameters(2)))
    whole = Trajectory.from_steps(made, FLOW, 2)
    parts = [Trajectory.from_steps(part, FLOW, 2) for part in (made[:4], made[3:])]
    joined = parts[0].followed_by(parts[1])
    for name in ("times", "thetas", "velocities"):
        assert (getattr(joined, name) == getattr(whole, name)).all()
