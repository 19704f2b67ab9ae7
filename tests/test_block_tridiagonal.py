"""Systems whose blocks are coupled to the next one only, against dense ones."""

import pytest
import torch

from skfokker.block_tridiagonal import solve_block_tridiagonal


def system(sizes):
    """A positive definite matrix of these blocks, whole and in blocks, and a right-hand side."""
    generator = torch.Generator().manual_seed(0)
    n = sum(sizes)
    whole = torch.randn(n, n, generator=generator, dtype=torch.float64)
    label = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    whole = (whole + whole.T) * ((label[:, None] - label).abs() <= 1)
    whole += (1e-3 - torch.linalg.eigvalsh(whole)[0]) * torch.eye(n)
    right = torch.randn(n, generator=generator, dtype=torch.float64)
    rows = [part.split(sizes, 1) for part in whole.split(sizes)]
    diagonal = [rows[k][k] for k in range(len(sizes))]
    return whole, right, diagonal, [rows[k][k + 1] for k in range(len(sizes) - 1)]


@pytest.mark.parametrize("sizes", [[5], [1, 4], [4, 6, 2, 5]])
def test_solution_is_that_of_the_whole(sizes):
    whole, right, diagonal, beside = system(sizes)
    solved = solve_block_tridiagonal(diagonal, beside, right.split(sizes))
    assert [len(part) for part in solved] == sizes
    torch.testing.assert_close(
        torch.cat(solved), torch.linalg.solve(whole, right), rtol=1e-9, atol=0
    )


def test_nothing_where_the_matrix_is_not_positive_definite():
    _, right, diagonal, beside = system([3, 3])
    below = [square - 2e-3 * torch.eye(3) for square in diagonal]  # one eigenvalue is negative
    assert solve_block_tridiagonal(below, beside, right.split(3)) is None
