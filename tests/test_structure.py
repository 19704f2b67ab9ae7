"""What a potential shows of itself, and the family that is chosen for it."""

import numpy as np
import pytest
import torch

from skfokker import problems
from skfokker.flows import AffineFlow, Composition, ConditionalFlow
from skfokker.flows.choice import choose_flow
from skfokker.potentials import Quadratic, Rosenbrock, StyblinskiTang, Zero
from skfokker.potentials.adapters import CallablePotential
from skfokker.structure import probe


def look(potential, d):
    eye = torch.eye(d, dtype=torch.float64)
    return probe(potential, torch.zeros(d, dtype=torch.float64), eye)


def test_quadratic_is_seen():
    structure = look(Quadratic([1.0, 2.0], [[1.0, 0.5], [0.5, 1.0]]), 2)
    assert structure.quadratic and not structure.separable
    assert structure.convexity == pytest.approx(1 / 1.5, rel=1e-6)
    assert look(Zero(3), 3).quadratic


def test_products_are_seen():
    structure = look(StyblinskiTang(4), 4)
    assert structure.separable and not structure.quadratic and structure.convexity is None


def test_the_graph_of_interactions_is_seen():
    interacts = look(Rosenbrock(5), 5).interacts
    i, j = np.indices((5, 5))
    np.testing.assert_array_equal(interacts, abs(i - j) <= 1)


def test_one_infinite_point_does_not_matter_and_many_are_conservative():
    def wall(x):
        return x.square().sum(1) / 2 + torch.where(x[:, 0] > 1.5, torch.nan, 0.0)

    assert look(CallablePotential(wall, 2), 2).separable
    assert not look(CallablePotential(lambda x: x.sum(1) * torch.nan, 2), 2).separable


def test_choice():
    affine, why = choose_flow(look(Zero(3), 3))
    assert isinstance(affine, AffineFlow) and "quadratic" in why
    product, why = choose_flow(look(StyblinskiTang(3), 3))
    assert isinstance(product, Composition) and product.separable and "sum" in why
    for structure, options in ((StyblinskiTang(3), {"diagonal": False}), (Rosenbrock(3), {})):
        coupled, why = choose_flow(look(structure, 3), **options)
        assert isinstance(coupled, ConditionalFlow) and not coupled.chosen and "interact" in why
    mixture, why = choose_flow(look(Rosenbrock(5), 5), parts=4)
    assert mixture.n_components == 4 and "4 Gaussians" in why


def test_wells_far_apart_are_not_one():
    """All six points of the probe are in the basin of one well, where V is quadratic."""
    potential = problems.load("nine-gaussians", d=12, k=3).potential
    structure = probe(potential, torch.zeros(12).double(), 4 * torch.eye(12).double())
    assert not structure.quadratic and not structure.separable
