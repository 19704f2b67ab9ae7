"""Velocity fields that move a mixture of Gaussians: covariances turn, weight is exchanged."""

from __future__ import annotations

import math
from functools import cached_property, lru_cache

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
    way, and hardly to or from components of next to no weight. What each edge carries follows from
    the weights to be moved, as currents do.

    Parameters
    ----------
    mixture : Mixture
    """

    negligible = 0.02  # of the better conductance of either end: such an edge carries nothing
    largest_distance = 15.0  # conductances below exp of minus that are as good as none
    idle = 1e-3  # little goes to and from components of less weight

    def __init__(self, mixture):
        k, device = len(mixture.means), mixture.means.device
        i, j = torch.triu_indices(k, k, 1, device=device)
        distance = bhattacharyya(mixture, i, j)
        active = mixture.weights / (mixture.weights + self.idle)
        active = active[i] * active[j]
        upper, table = np.triu_indices(k, 1), np.zeros((k, k))
        table[upper] = (distance - active.log()).cpu().numpy() + 1e-6  # zero would mean no edge
        tree = minimum_spanning_tree(table).toarray() > 0
        tree = torch.from_numpy(tree[upper]).to(device)
        conductance = active * (-distance.clamp(max=self.largest_distance)).exp()
        between = conductance.new_zeros(k, k).index_put((i, j), conductance)
        best = torch.maximum(between.amax(0), between.amax(1))
        use = tree | (conductance > self.negligible * torch.maximum(best[i], best[j]))
        self.tail, self.head, self.conductance = i[use], j[use], conductance[use]
        self.distance = distance[use].tolist()
        edges = torch.arange(len(self.tail), device=device)
        self.incidence = conductance.new_zeros(len(edges), k)  # -1 at the tail, 1 at the head
        self.incidence[edges, self.tail], self.incidence[edges, self.head] = -1.0, 1.0

    @property
    def quadrature(self) -> tuple[Tensor, Tensor, Tensor]:
        """Nodes along all edges: which edge each is on, where in (0, 1), and its weight (P,)."""
        # a component passes a point in a time of one over its distance in standard deviations
        # (a trial step may run components far away, even beyond what numbers hold)
        sizes = [10 + math.ceil(min(30.0, 1.5 * math.sqrt(8 * far))) for far in self.distance]
        rules = [_gauss_legendre(size) for size in sizes]
        edge = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        return edge, torch.cat([s for s, _ in rules]), torch.cat([w for _, w in rules])

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
        scale = laplacian.diagonal().rsqrt()
        # scaled, so that weakly tied components keep their digits, and with its null vector added
        null = 1 / scale
        null = null / null.norm()
        grounded = scale[:, None] * laplacian * scale + null[:, None] * null
        centre = torch.eye(k).to(laplacian) - 1 / k
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
        n, d = self.y.shape
        edge, s, weights = (a.to(self.y.device) for a in self.network.quadrature)
        mean, dmean = self._path(self.mixture.means, edge, s)
        root, droot = self._path(self.mixture.root, edge, s)
        identity = torch.eye(d).to(root).expand_as(root)
        whitener = torch.linalg.solve_triangular(root, identity, upper=False)
        # log N_s is a quadratic function of y: at all nodes one product with its monomials
        row, column = torch.tril_indices(d, d)
        monomials = torch.cat([self.y, self.y[:, row] * self.y[:, column]], 1)
        precision = whitener.mT @ whitener
        linear = (precision @ mean[:, :, None])[:, :, 0]
        twice = torch.where(row == column, -0.5, -1.0).to(self.y)
        quadratic = torch.cat([linear, precision[:, row, column] * twice], 1)
        constant = -0.5 * (linear * mean).sum(1) - root.diagonal(dim1=1, dim2=2).log().sum(1)
        constant = constant - 0.5 * d * math.log(2 * math.pi) + weights.log()
        # u_s = m' + L' L_s^-1 (y - m_s) is linear
        slope = droot @ whitener
        offset = dmean - (slope @ mean[:, :, None])[:, :, 0]
        velocity = torch.cat([offset, slope.mT.flatten(1)], 1)
        fields = self.y.new_empty(len(self.network.tail), n, d)
        log_density = self.log_density[:, None]
        sizes = torch.bincount(edge, minlength=len(fields)).tolist()
        tables = (constant.split(sizes), quadratic.split(sizes), velocity.split(sizes))
        for field, at_zero, by_monomial, by_y in zip(fields, *tables, strict=True):
            ratio = torch.addmm(at_zero, monomials, by_monomial.T)
            ratio = ratio.sub_(log_density).clamp_(max=100.0).exp_()
            moments = ratio @ by_y
            field.copy_(moments[:, :d])
            for i in range(d):
                field.addcmul_(self.y[:, i, None], moments[:, d * (i + 1) : d * (i + 2)])
        return fields.permute(1, 2, 0).contiguous()

    def _path(self, of_components: Tensor, edge: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Values at s on the straight lines from tail to head, and their derivative in s."""
        tail, head = self.network.tail[edge], self.network.head[edge]
        step = of_components[head] - of_components[tail]
        return of_components[tail] + s.view(-1, *[1] * (step.ndim - 1)) * step, step

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


@lru_cache
def _gauss_legendre(n: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on (0, 1)."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)


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
