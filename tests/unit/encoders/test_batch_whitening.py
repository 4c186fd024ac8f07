"""Whitening of batches: white output, groups, permutations, gradient, degenerate input, ranks."""

import torch

from common.encoders.batch_whitening import whitening_matrix


def test_zca_gradient_is_finite_for_equal_eigenvalues():
    """Where the gradient of the eigenvectors would divide by zero."""
    matrix = (2 * torch.eye(3)).double().requires_grad_()
    whitening_matrix(matrix).square().sum().backward()
    # d tr(C^-1) / dC = -C^-2
    torch.testing.assert_close(matrix.grad, -torch.eye(3).double() / 4)
