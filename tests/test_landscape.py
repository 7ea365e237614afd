import numpy as np
import torch
from problems import make_problem
from scipy.sparse.linalg import eigsh

from smesolve.landscape import covariance_operator, hessian_operator


def test_operators_equal_their_dense_matrices():
    problem = make_problem(width=3, out_features=2, bias=True)
    theta = problem.initial()
    identity = np.eye(problem.dim)
    hessian = torch.func.hessian(problem.modified_loss)(theta).numpy()
    assert np.abs(hessian_operator(problem, theta) @ identity - hessian).max() < 1e-12
    covariance = problem.covariance(theta).numpy()
    assert np.abs(covariance_operator(problem, theta) @ identity - covariance).max() < 1e-12
    largest = eigsh(covariance_operator(problem, theta), k=2, return_eigenvectors=False)
    assert np.allclose(np.sort(largest), np.linalg.eigvalsh(covariance)[-2:], rtol=1e-8)
