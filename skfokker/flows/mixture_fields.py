"""Velocity fields that move a mixture of Gaussians: covariances turn, weight is exchanged."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import torch
from scipy.sparse.csgraph import minimum_spanning_tree
from torch import Tensor


def symmetric_generator(root: Tensor, dcovariance: Tensor) -> Tensor:
    """The symmetric B with B C + C B = C' for symmetric C' (..., K, d, d), C = L L^T.

    y' = m' + B (y - m) is the gradient field that moves N(m, C); its own adjoint.
    """
    values, vectors = torch.linalg.eigh(root @ root.mT)
    inner = vectors.mT @ dcovariance @ vectors
    return vectors @ (inner / (values[:, :, None] + values[:, None])) @ vectors.mT


class Network:
    """Which components of a mixture exchange weight, and how readily.

    Conductances are the overlaps of the components (Bhattacharyya): weight moves where there is a
    way. What each edge carries follows from the weights to be moved, as currents do.

    Parameters
    ----------
    mixture : Mixture
    """

    negligible = 0.02  # of the better conductance of either end: such an edge carries nothing
    largest_distance = 15.0  # conductances below exp of minus that are as good as none

    def __init__(self, mixture):
        k, device = len(mixture.means), mixture.means.device
        i, j = torch.triu_indices(k, k, 1, device=device)
        distance = bhattacharyya(mixture, i, j)
        upper, table = np.triu_indices(k, 1), np.zeros((k, k))
        table[upper] = distance.cpu().numpy() + 1e-6  # zero would mean no edge
        tree = minimum_spanning_tree(table).toarray() > 0
        tree = torch.from_numpy(tree[upper]).to(device)
        conductance = (-distance.clamp(max=self.largest_distance)).exp()
        between = conductance.new_zeros(k, k).index_put((i, j), conductance)
        best = torch.maximum(between.amax(0), between.amax(1))
        use = tree | (conductance > self.negligible * torch.maximum(best[i], best[j]))
        self.tail, self.head, self.conductance = i[use], j[use], conductance[use]
        self.furthest = float(distance[use].max())
        edges = torch.arange(len(self.tail), device=device)
        self.incidence = conductance.new_zeros(len(edges), k)  # -1 at the tail, 1 at the head
        self.incidence[edges, self.tail], self.incidence[edges, self.head] = -1.0, 1.0

    @property
    def currents(self) -> Tensor:
        """(E, K): what the edges carry at given potentials of the components."""
        return self.conductance[:, None] * self.incidence

    @property
    def laplacian(self) -> Tensor:
        """(K, K): from potentials to the change of the weights."""
        return self.incidence.T @ self.currents

    @cached_property
    def potentials(self) -> Tensor:
        """(K, K): from the change of the weights to potentials, which is symmetric."""
        laplacian = self.laplacian
        k = len(laplacian)
        ones = torch.full_like(laplacian, 1 / k)
        scale = laplacian.diagonal().clamp(min=torch.finfo(laplacian.dtype).tiny).rsqrt()
        # grounded in its mean; scaled, so that weakly tied components keep their digits
        grounded = scale[:, None] * (laplacian + ones * laplacian.diagonal().min()) * scale
        centre = torch.eye(k).to(ones) - ones
        solved = scale[:, None] * torch.linalg.solve(grounded, scale[:, None] * centre)
        return centre @ solved


class Exchange:
    r"""Fields that carry weight from component to component at points y.

    Along the edge from j to k, unit weight takes the straight path of the Gaussians N_s with means
    (1 - s) m_j + s m_k and roots alike: its flux :math:`J = \int_0^1 N_s u_s ds`, with u_s the
    velocity of that path, has div J = N_j - N_k, and the field is J / rho.

    Parameters
    ----------
    mixture : Mixture
    network : Network
    y : Tensor (n, d)
    log_density : Tensor (n,)
        Of the mixture at y.
    """

    def __init__(self, mixture, network: Network, y: Tensor, log_density: Tensor):
        self.mixture, self.network = mixture, network
        self.y, self.log_density = y, log_density

    @cached_property
    def fluxes(self) -> Tensor:
        """Fields J / rho of all edges, (n, d, E)."""
        mixture, tail, head = self.mixture, self.network.tail, self.network.head
        n, d = self.y.shape
        # a component passes a point in a time of one over its distance in standard deviations
        nodes, weights = np.polynomial.legendre.leggauss(
            min(40, 10 + math.ceil(1.5 * math.sqrt(8 * self.network.furthest)))
        )
        dmean = mixture.means[head] - mixture.means[tail]
        droot = mixture.root[head] - mixture.root[tail]
        identity = torch.eye(d).to(droot).expand_as(droot)
        # u_s = m' + L' z_s at z_s = L_s^-1 (y - m_s), so that moments of order 0 and 1 are enough
        order0, order1 = self.y.new_zeros(n, len(tail)), self.y.new_zeros(n, len(tail), d)
        for s, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
            root = mixture.root[tail] + s * droot
            whitener = torch.linalg.solve_triangular(root, identity, upper=False)
            mean = mixture.means[tail] + s * dmean
            offset = (whitener @ mean[:, :, None])[:, :, 0]
            z = (self.y @ whitener.flatten(0, 1).T).view(n, -1, d).sub_(offset)
            log_n = -0.5 * z.square().sum(2) - root.diagonal(dim1=1, dim2=2).log().sum(1)
            log_n = log_n - 0.5 * d * math.log(2 * math.pi)
            ratio = weight * (log_n - self.log_density[:, None]).clamp(max=100.0).exp()
            order0 += ratio
            order1 += z.mul_(ratio[:, :, None])
        fields = order0[:, :, None] * dmean + torch.einsum("nej,eij->nei", order1, droot)
        return fields.transpose(1, 2)

    @cached_property
    def by_potential(self) -> Tensor:
        """Fields of unit potentials (n, d, K)."""
        return self.fluxes @ self.network.currents

    @cached_property
    def columns(self) -> Tensor:
        """Fields of unit w_k', the others losing alike (n, d, K)."""
        return self.by_potential @ self.network.potentials

    def field(self, dweights: Tensor) -> Tensor:
        """The field (n, d) that changes the weights by dweights (K,), whose sum is zero."""
        return self.fluxes @ (self.network.currents @ (self.network.potentials @ dweights))

    def field_transposed(self, v: Tensor) -> Tensor:
        """Its adjoint on v (n, d): (K,)."""
        by_edge = torch.einsum("nde,nd->e", self.fluxes, v)
        return self.network.potentials.T @ (self.network.currents.T @ by_edge)


def bhattacharyya(mixture, i: Tensor, j: Tensor) -> Tensor:
    """Bhattacharyya distances of the components i and j, both (E,)."""
    covariances = mixture.covariances
    middle = (covariances[i] + covariances[j]) / 2
    root = torch.linalg.cholesky(middle)
    gap = (mixture.means[j] - mixture.means[i])[:, :, None]
    z = torch.linalg.solve_triangular(root, gap, upper=False)[:, :, 0]
    log_det = mixture.diagonal.log().sum(1)
    log_middle = root.diagonal(dim1=1, dim2=2).log().sum(1)
    return 0.125 * z.square().sum(1) + log_middle - 0.5 * (log_det[i] + log_det[j])
