"""Data and targets that a problem takes: what they hide or cannot mean is answered by one sentence."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import smesolve as sme
from smesolve.problem.data import finite_data

X = np.linspace(-1, 1, 8).reshape(4, 2)
T = torch.tensor(X)


def taken(values, dtype=torch.float64, **options):
    return finite_data("x", values, dtype, torch.device("cpu"), **options)


@pytest.mark.parametrize(
    "values",
    [
        X,
        X.tolist(),
        X.astype(">f8"),
        X.astype("longdouble"),
        X[::-1][::-1],
        np.ma.array(X),
        pd.DataFrame(X),
        T.clone().requires_grad_(),
        (T * 1j).conj().imag.neg(),
        T.as_subclass(type("Named", (torch.Tensor,), {})),
    ],
)
def test_real_numbers_are_taken_as_they_are(values):
    found = taken(values)
    assert torch.equal(found, T) and not found.requires_grad and not found.is_neg() and type(found) is torch.Tensor


@pytest.mark.parametrize("kind", ["?", "i1", "u1", "i8", "u8", "f2", "f4"])
def test_every_kind_of_real_number_is_taken(kind):
    values = np.array([[0, 1], [1, 1]]).astype(kind)
    assert taken(values).tolist() == [[0, 1], [1, 1]]
    assert taken(torch.as_tensor(values)).tolist() == [[0, 1], [1, 1]]


HIDDEN = {
    "masked": (lambda: np.ma.masked_greater(X, 0.5), "x has 2 masked values"),
    "masked rows": (lambda: [np.ma.masked_greater(row, 0.5) for row in X], "x has 2 masked values"),
    "masked tensor": (lambda: torch.masked.masked_tensor(T, T > 0), "got a masked one"),
    "complex": (lambda: X * (1 + 0j), "must hold real numbers"),
    "complex tensor": (lambda: T * (1 + 0j), "must hold real numbers"),
    "objects": (lambda: X.astype(object), "must hold real numbers"),
    "records": (lambda: np.zeros(3, dtype=[("a", float)]), "must hold real numbers"),
    "text": (lambda: X.astype(str), "must hold real numbers"),
    "times": (lambda: X.astype("datetime64[s]"), "must hold real numbers"),
    "meta": (lambda: T.to("meta"), r"on the meta device; give one with values"),
    "sparse": (lambda: T.to_sparse(), r"a sparse one; convert it by \.to_dense"),
    "compressed": (lambda: T.to_sparse_csr(), r"a sparse one; convert it by \.to_dense"),
    "nested": (lambda: torch.nested.nested_tensor([T[0], T[1, :1]]), "got a nested one"),
    "jagged": (lambda: torch.nested.nested_tensor([T[0], T[1, :1]], layout=torch.jagged), "got a nested one"),
    "large integers": (lambda: np.full((2, 2), 2**63, dtype="u8"), r"integers up to 9\.22337e\+18"),
    "large values": (lambda: X * 1e308, r"values up to 1e\+308, whose squares overflow"),
    "missing": (lambda: np.where(X > 0, np.nan, X), "4 values that are NaN or infinite"),
    "ragged": (lambda: [[1.0], [2.0, 3.0]], "must hold real numbers"),
}


@pytest.mark.filterwarnings("ignore")  # torch's nested, masked and compressed tensors are in beta
@pytest.mark.parametrize("name", HIDDEN)
def test_data_that_hide_something_are_refused(name):
    make, words = HIDDEN[name]
    values = make()
    with pytest.raises(ValueError, match=words) as refused:
        taken(values)
    assert str(refused.value).endswith(".") and "\n" not in str(refused.value)
    with pytest.raises(ValueError, match=r"^x (has|must) "):
        sme.DropoutProblem(sme.TwoLayerNetwork(2, 3), values, torch.zeros(4, 1), keep_prob=0.5)


def test_the_bounds_of_integers_and_values_are_those_of_the_dtype():
    assert taken(np.full((2, 2), 2**53 - 1)).max() == 2**53 - 1
    assert taken(np.full((2, 2), 2**24 - 1), torch.float32).max() == 2**24 - 1
    for bad in (np.full((2, 2), 2**24), X * 1e30, X * 1e300):
        with pytest.raises(ValueError, match=r"torch\.float32"):
            taken(bad, torch.float32)


def test_targets_whose_squares_overflow_are_refused():
    y = torch.tensor([[0.0], [1.0], [0.0], [1e308]], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"y has values up to 1e\+308, whose squares overflow"):
        sme.DropoutProblem(sme.TwoLayerNetwork(2, 3), T, y, keep_prob=0.5)


# --- targets of cross-entropy --------------------------------------------------------------------------------------

MODULE = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Dropout(0.2), nn.Linear(4, 3)).double()
LABELS = torch.tensor([0, 2, 1, 2])


def problem(y, module=MODULE, x=T):
    return sme.ModuleProblem(module, x, y, loss="cross_entropy")


def expected_loss(theta, module=MODULE):
    weights = nn.utils.parameters_to_vector(module.parameters())
    nn.utils.vector_to_parameters(theta, module.parameters())
    try:
        return nn.functional.cross_entropy(module.eval()(T), LABELS).detach()
    finally:
        nn.utils.vector_to_parameters(weights, module.parameters())
        module.train()


@pytest.mark.parametrize(
    "y",
    [
        LABELS,
        *(LABELS.to(dtype) for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.float32)),
        LABELS.double(),
        LABELS.numpy().astype("u8"),
        nn.functional.one_hot(LABELS, 3),
        nn.functional.one_hot(LABELS, 3).float(),
    ],
)
def test_classes_are_taken_in_every_form(y):
    made = problem(y)
    theta = made.initial(0)
    assert torch.allclose(made.loss(theta), expected_loss(theta), rtol=1e-12)
    assert made.gradient(theta, made.sample(2, 0)).shape == (2, made.dim)


def test_class_probabilities_are_taken():
    y = torch.softmax(torch.linspace(-1, 1, 12).reshape(4, 3), 1)  # rounded to float32
    made = problem(y)
    theta = made.initial(0)
    by_class = torch.stack([problem(torch.full((4,), c)).loss(theta) for c in range(3)])
    assert made.loss(theta).item() > 0 and by_class.min() < made.loss(theta) < by_class.max()


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (torch.tensor([0, 1, 2, -100]), "whole numbers from 0 to 2, for loss='cross_entropy', got -100"),
        (torch.tensor([0, 1, 2, 3]), "from 0 to 2, for loss='cross_entropy', got 3"),
        (torch.tensor([0, 1, 2, -1]), "got -1"),
        (torch.tensor([0, 1, 1.5, 2]), "got 1.5"),
        (torch.tensor([0.0, 1, 1e9, 2]), r"got 1e\+09"),
        (torch.tensor([255, 0, 0, 0], dtype=torch.uint8), "got 255"),
        (np.array([2**64 - 1, 0, 0, 0], dtype="u8"), r"got 1\.84467e\+19"),
        (LABELS[:, None], r"y\.reshape\(-1\)"),
        (LABELS[:, None].double(), r"y\.reshape\(-1\)"),
        (torch.randn(4, 3).double(), "must hold class probabilities"),
        (torch.full((4, 3), 0.5), "differs from 1 by 0.5"),
        (torch.tensor([[1.5, -0.5, 0.0]] * 4), "-0.5 among them"),
        (torch.full((4, 2), 0.5), "class probabilities of shape"),
    ],
)
def test_what_is_no_class_is_refused(y, words):
    with pytest.raises(ValueError, match=words):
        problem(y)


def test_the_outputs_have_a_dimension_of_classes():
    with pytest.raises(ValueError, match=r"outputs \(n, classes\)"):
        problem(LABELS, nn.Sequential(nn.Linear(2, 1), nn.Flatten(0)).double())


def test_two_classes_may_be_booleans():
    two = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.2)).double()
    assert problem(LABELS > 1, two).y.tolist() == [0, 1, 0, 1]


def test_a_problem_keeps_its_data_whatever_becomes_of_the_callers():
    x, y = T.clone(), T[:, :1].clone()
    taken_here = sme.ModuleProblem(nn.Linear(2, 1).double(), x, y)
    theta = taken_here.initial(seed=0)
    before = taken_here.loss(theta)
    x.zero_(), y.zero_()
    assert taken_here.loss(theta) == before > 0
