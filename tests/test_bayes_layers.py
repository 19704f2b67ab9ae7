"""Counting and budgets, layers of conditional densities, and laws fitted by them."""

import time

import numpy as np
import pytest
import torch

from skfokker.bayes import PosteriorSampler, sample_posterior
from skfokker.bayes.calls import BudgetSpent, Counted
from skfokker.bayes.descent import descend
from skfokker.bayes.layer_fit import fit_layer
from skfokker.bayes.layers import Cloud, Layer, LayeredLaw, log_base, log_normal
from skfokker.flows import ConditionalFlow
from skfokker.potentials import Quadratic

OWN, FEATURES = ("polynomials", -5.0, 5.0, 4, 2.0), ("polynomials", -3.5, 3.5, 3)


def banana(x):
    """Log density: the second coordinate bends with the first, and is wider on the right."""
    sd = torch.exp(0.2 * x[:, 0])
    gap = (x[:, 1] - 0.3 * x[:, 0].square()) / sd
    return -0.5 * x[:, 0].square() - 0.5 * gap.square() - sd.log() - np.log(2 * np.pi)


def bent_layer():
    flow = ConditionalFlow(
        [OWN] * 2, [FEATURES] * 2, [[((), [], 2)], [((), [], 1), ((0,), [[1, 2]], 1)]]
    )
    generator = torch.Generator().manual_seed(3)
    theta = 0.2 * torch.randn(flow.n_parameters(2), generator=generator, dtype=torch.float64)
    turn = torch.linalg.qr(torch.tensor([[1.0, 2.0], [-0.5, 1.0]]).double())[0]
    return Layer(turn, flow, theta)


def test_points_are_counted_by_kind():
    counted = Counted(Quadratic([0.0, 0.0]))
    counted(torch.zeros(5, 2).double())
    counted.value_and_grad(torch.zeros(3, 2).double())
    assert (counted.n_values, counted.n_gradients, counted.n_batches) == (5, 3, 2)
    with counted.allowance(calls=4):
        counted(torch.zeros(4, 2).double())
        with pytest.raises(BudgetSpent):
            counted(torch.zeros(1, 2).double())
    assert counted.total == 12 and counted.calls_left == np.inf
    assert "12 points (9 values, 3 gradients) in 3 batches" in str(counted)


def test_a_deadline_cuts_a_slow_batch():
    def slow(x):
        time.sleep(0.01 * len(x))
        return x.square().sum(1)

    counted = Counted(slow)
    counted(torch.zeros(2, 1).double())
    with counted.allowance(seconds=0.2), pytest.raises(BudgetSpent):
        counted(torch.zeros(1000, 1).double())
    assert counted.total < 100


def test_descent_of_many_rows_finds_each_ones_mode():
    double_well = Counted(lambda x: (x[:, 0].square() - 1).square() + 50 * x[:, 1].square())
    starts = torch.tensor([[-2.0, 1.0], [0.3, -1.0], [3.0, 0.1]]).double()
    path = descend(double_well, starts)
    np.testing.assert_allclose(path[-1], [[-1, 0], [1, 0], [1, 0]], atol=1e-3)
    assert double_well.n_batches < 100


def test_a_layered_law_is_a_density_and_draws_from_it():
    mean, root = torch.tensor([1.0, -1.0]).double(), torch.tensor([[2.0, 0.0], [0.5, 0.7]]).double()
    law = LayeredLaw(mean, root, [bent_layer()])
    torch.manual_seed(0)
    x = law.sample((4000,))
    grid = torch.cartesian_prod(*(torch.linspace(-30, 30, 601).double(),) * 2)
    density = law.log_prob(grid).exp() * 0.01
    assert float(density.sum()) == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(x.mean(0), density @ grid, atol=0.15)


def test_what_layers_make_of_a_density_has_the_right_gradient():
    layer = bent_layer()
    u = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = u.clone().requires_grad_()
    (slope,) = torch.autograd.grad(banana(x).sum(), x)
    cloud = Cloud.of(u, banana(u), slope).through(layer)
    again = layer.push(cloud.u)
    torch.testing.assert_close(again, u)
    torch.testing.assert_close(cloud.log_laws[:, 1], log_base(cloud.u) + cloud.log_det)
    step = 1e-5
    for k in range(2):
        shift = step * torch.eye(2).double()[k]
        values = []
        for latent in (cloud.u + shift, cloud.u - shift):
            y = layer.push(latent)
            values.append(banana(y) - layer.pull(y)[1])
        torch.testing.assert_close(
            cloud.slope[:, k], (values[0] - values[1]) / (2 * step), atol=1e-6, rtol=1e-5
        )


def test_a_law_of_the_family_is_fitted_exactly():
    layer = bent_layer()
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(400, 2, generator=generator, dtype=torch.float64)

    def log_p(z):
        x, log_det = layer.flow.inverse(0.5 * layer.theta, z)
        return log_normal(x) + log_det + 7.0  # not normalised

    at = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(log_p(at).sum(), at)
    even = torch.full((400,), 1 / 400, dtype=torch.float64)
    theta = fit_layer(layer.flow, z, log_p(z).detach(), slope, even, n_iterations=20)
    x, log_det = layer.flow.inverse(theta, z)
    gap = log_p(z) - log_normal(x) - log_det
    before = log_p(z) - log_normal(z)
    assert float(gap.std()) < 0.1 * float(before.std())


def test_a_bent_posterior_takes_few_calls():
    sampler = PosteriorSampler(random_state=0).fit(banana, 2)
    posterior = sampler.posterior()
    assert sampler.estimator_ is None and sampler.layers_
    assert posterior.reliable and posterior.efficiency > 0.8
    assert posterior.log_evidence.value == pytest.approx(0, abs=0.03)
    assert posterior.n_calls < 25_000 and f"{posterior.n_calls} points" in str(posterior)


def test_where_layers_do_not_do_the_march_does(monkeypatch):
    """A round without layers: the Gaussian alone is far from a bent density."""
    monkeypatch.setattr("skfokker.bayes.rounds.choose_layer", lambda *_: None)
    monkeypatch.setattr("skfokker.bayes.sampler.reliable_k", lambda n: -np.inf)
    sampler = PosteriorSampler(tolerance=1.0, random_state=0).fit(banana, 2)
    assert len(sampler.rounds_) == 1
    assert sampler.estimator_ is not None and sampler.layers_ is None


def test_a_gaussian_is_accepted_after_one_check():
    sampler = PosteriorSampler(random_state=0).fit(
        lambda x: -x.square().sum(1) + x[:, 0] * x[:, 1], 2
    )
    assert len(sampler.rounds_) == 1 and not sampler.layers_
    assert sampler.posterior().efficiency > 0.999


def test_budgets_are_kept():
    posterior = sample_posterior(banana, 2, random_state=0, max_calls=3000)
    assert 1500 < posterior.n_calls <= 3000
    assert posterior.log_evidence.value == pytest.approx(0, abs=0.2)

    def slow(x):
        time.sleep(1e-3 * len(x))
        return banana(x)

    before = time.perf_counter()
    sample_posterior(slow, 2, random_state=0, max_seconds=2.5, n_draws=100_000)
    assert time.perf_counter() - before < 1.2 * 2.5
    with pytest.raises(ValueError, match="spent before the search for a mode"):
        sample_posterior(banana, 2, random_state=0, max_calls=100)


@pytest.mark.slow
def test_processes_share_the_points():
    alone, shared = Counted(Quadratic([1.0, 2.0])), Counted(Quadratic([1.0, 2.0]), n_jobs=2)
    x = torch.randn(7, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(shared(x), alone(x))
    for ours, theirs in zip(shared.value_and_grad(x), alone.value_and_grad(x), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert shared.total == 14
