"""Modules that a study cannot use are refused when the problem is made; others are left unchanged."""

import pickle
import random
import threading

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from torch import nn
from torch.nn.utils import parametrizations

import smesolve as sme
from smesolve.errors import SmesolveError
from smesolve.sampling import pickling

SAMPLES = 6
X = torch.randn(SAMPLES, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.randn(SAMPLES, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def perceptron(*layers, width=3):
    return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Dropout(0.2), *layers, nn.Linear(width, 1)).double()


class Wrapped(nn.Module):
    """A perceptron with something that happens before or after it."""

    def __init__(self, before=None, after=None, **attributes):
        super().__init__()
        self.net, self.before, self.after = perceptron(), before, after
        self.register_buffer("calls", torch.zeros((), dtype=torch.float64))
        self.register_buffer("average", torch.zeros(3, dtype=torch.float64))
        self.kept, self.listed, self.named, self.number = None, [], {}, 0
        self.constant = torch.ones(1, dtype=torch.float64)
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        if self.before:
            self.before(self, x)
        outputs = self.net(x)
        return self.after(self, outputs) if self.after else outputs


class Tokens(nn.Module):
    """Two tokens of two features, a layer that mixes them, and a head that may be zero."""

    def __init__(self, mix, width=2):
        super().__init__()
        self.mix, self.head = mix, nn.Linear(width, 1)
        nn.init.zeros_(self.head.weight)

    def forward(self, x):
        mixed = self.mix(x.unflatten(1, (2, 2)))
        return self.head((mixed[0] if isinstance(mixed, tuple) else mixed).mean(1))


class SelfAttention(nn.MultiheadAttention):
    def forward(self, x):
        return super().forward(x, x, x)


def used(module, x=X, y=Y, **options):
    """Return a problem of the module after the calls that a study makes."""
    problem = sme.ModuleProblem(module, x, y, **options)
    theta = torch.linspace(-0.5, 0.5, problem.dim, dtype=problem.dtype)
    gradients = problem.gradient(theta, problem.sample(2, 0))
    assert gradients.isfinite().all()
    for value in (problem.loss(theta), problem.modified_loss(theta), problem.hessian_product(theta, theta)):
        assert value.isfinite().all()
    problem.noise_coefficients(theta, theta)
    assert sme.iterate(problem, theta, 0.1, 1, 2)[-1].isfinite().all()
    assert problem.initial(0).isfinite().all()
    pickling.dumps(problem)
    return problem


class Words(nn.Module):
    def __init__(self, sparse):
        super().__init__()
        self.words, self.drop, self.head = nn.Embedding(9, 3, sparse=sparse), nn.Dropout(0.2), nn.Linear(12, 1)

    def forward(self, x):
        return self.head(self.drop(self.words(x.long())).flatten(1))


def averages(module, x):
    module.average.mul_(0.9)


def called(module):
    module(X)
    return module


def tied():
    module = perceptron(nn.Linear(4, 4), width=4)
    module[3].weight = module[0].weight
    return module


TAKEN = {
    "keeps a hidden layer": lambda: Wrapped(lambda m, x: setattr(m, "kept", m.net[0](x))),
    "keeps it in a list": lambda: Wrapped(lambda m, x: m.listed.append(m.net[0](x))),
    "keeps it in a dict": lambda: Wrapped(lambda m, x: m.named.update(hidden=m.net[0](x))),
    "was called before": lambda: called(Wrapped(lambda m, x: setattr(m, "kept", m.net[0](x)))),
    "a new attribute": lambda: Wrapped(lambda m, x: setattr(m, "another", m.net[0](x))),
    "a buffer that counts": lambda: Wrapped(lambda m, x: setattr(m, "calls", m.calls + 1)),
    "a buffer that counts in place": lambda: Wrapped(lambda m, x: m.calls.add_(1)),
    "a number that counts": lambda: Wrapped(lambda m, x: setattr(m, "number", m.number + 1)),
    "a buffer written in place": lambda: Wrapped(averages),
    "a running mean": lambda: Wrapped(lambda m, x: m.average.mul_(0.9).add_(m.net[0](x).mean(0), alpha=0.1)),
    "shared parameters": tied,
    "weight_norm": lambda: perceptron(parametrizations.weight_norm(nn.Linear(3, 3))),
    "weight_norm of the whole": lambda: perceptron(parametrizations.weight_norm(nn.Linear(3, 3), dim=None)),
    "spectral_norm, frozen": lambda: perceptron(parametrizations.spectral_norm(nn.Linear(3, 3)).eval()),
    "LSTM": lambda: Tokens(nn.LSTM(2, 3, 2, batch_first=True), 3).double(),
    "GRU": lambda: Tokens(nn.GRU(2, 3, batch_first=True), 3).double(),
    "attention": lambda: Tokens(SelfAttention(2, 1, batch_first=True)).double(),
    "attention without weights": lambda: Tokens(nn.TransformerEncoderLayer(2, 1, 4, 0.0, batch_first=True)).double(),
    "hardsigmoid": lambda: perceptron(nn.Hardsigmoid()),
    "a zero head": lambda: (lambda m: (nn.init.zeros_(m[-1].weight), m)[1])(perceptron()),
    "GLU": lambda: nn.Sequential(nn.Linear(4, 6), nn.GLU(), nn.Dropout(0.2), nn.Linear(3, 1)).double(),
}


@pytest.mark.parametrize("case", TAKEN)
@pytest.mark.parametrize("options", [{}, {"masks": "shared", "batch_size": 3}], ids=["full", "batch"])
@pytest.mark.filterwarnings("ignore::smesolve.MissingInitialiserWarning")
def test_what_can_be_used_is_left_as_it_was(case, options):
    module = TAKEN[case]()
    kept = {"kept": getattr(module, "kept", None), "listed": list(getattr(module, "listed", []))}
    before = {key: value.clone() for key, value in module.state_dict().items()}
    flags = [layer.training for layer in module.modules()]
    names = [set(vars(layer)) for layer in module.modules()]
    hooks = [len(layer._forward_hooks) + len(layer._forward_pre_hooks) for layer in module.modules()]
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    used(module, **options)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]
    assert random.getstate() == states[2]
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert [layer.training for layer in module.modules()] == flags
    assert [set(vars(layer)) for layer in module.modules()] == names
    assert [len(layer._forward_hooks) + len(layer._forward_pre_hooks) for layer in module.modules()] == hooks
    assert all(parameter.grad is None and parameter.requires_grad for parameter in module.parameters())
    assert getattr(module, "kept", None) is kept["kept"]
    assert getattr(module, "listed", []) == kept["listed"]


def test_train_flags_are_those_of_the_making():
    module = perceptron()
    problem = sme.ModuleProblem(module, X, Y)
    theta, draw = problem.initial(0), problem.sample(3, 0)
    noisy = problem.gradient(theta, draw)
    module.eval()
    assert torch.equal(problem.gradient(theta, draw), noisy)
    without_noise = sme.ModuleProblem(module, X, Y)
    assert without_noise.has_closed_form
    assert not torch.equal(noisy, without_noise.mean_gradient(theta).expand_as(noisy))


def test_attention_and_recurrent_layers_have_the_gradients_of_torch():
    for case in ("LSTM", "GRU", "attention", "attention without weights", "weight_norm", "weight_norm of the whole"):
        module = TAKEN[case]().eval()
        problem = sme.ModuleProblem(module, X, Y)
        theta = torch.linspace(-0.5, 0.5, problem.dim, dtype=torch.float64)
        nn.utils.vector_to_parameters(theta.clone(), module.parameters())
        loss = (module(X) - Y).square().sum() / (2 * SAMPLES)
        expected = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(module.parameters()))])
        assert torch.allclose(problem.mean_gradient(theta), expected, rtol=1e-10, atol=1e-14)
        assert torch.allclose(problem.loss(theta), loss.detach(), rtol=1e-12)


def test_sparse_embeddings_have_the_gradients_of_dense_ones():
    x = torch.arange(24).reshape(6, 4) % 9
    sparse, dense = (used(Words(sparse).double(), x) for sparse in (True, False))
    theta, draw = dense.initial(0), dense.sample(3, 0)
    assert torch.equal(sparse.gradient(theta, draw), dense.gradient(theta, draw))


class Checkpointed(Wrapped):
    def forward(self, x):
        return torch.utils.checkpoint.checkpoint(self.net, x, use_reentrant=False)


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 1, dtype=torch.complex128))

    def forward(self, x):
        return (x.to(torch.complex128) @ self.weight).abs()


class Slope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values):
        return values.tanh()

    @staticmethod
    def backward(ctx, cotangent):
        return cotangent


def hooked():
    """Activations in a dict of the user's."""
    module, activations = perceptron(), {}
    module[1].register_forward_hook(lambda layer, inputs, outputs: activations.update(hidden=outputs))
    return module


def compiled(module):
    module.compile(backend="eager")
    return module


def with_parts(dtype):
    module = perceptron()
    module[0].to(dtype)
    return module


def noisy(outputs):
    return outputs + torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0), dtype=outputs.dtype)


class Language(nn.Module):
    """An embedding with a row of padding, whose weight is that of the readout as well."""

    def __init__(self):
        super().__init__()
        self.embedding, self.readout = nn.Embedding(3, 2, padding_idx=0), nn.Linear(2, 3, bias=False)
        self.readout.weight = self.embedding.weight

    def forward(self, x):
        return self.readout(self.embedding((x > 0).long()).mean(1)).sum(1, keepdim=True)


def padded(values):
    """Return an embedding whose row of padding has some values."""
    embedding = nn.Embedding(2, 1, padding_idx=1)
    nn.init.constant_(embedding.weight, values)
    return Wrapped(lambda m, x: m.embedding((x > 0).long()).sum((1, 2)), embedding=embedding.double())


OTHERWISE = "gives other outputs or drops otherwise at the second of two"

REFUSED = {
    "a padding row with values": (lambda: padded(0.5), r"row of padding_idx=1 in its .*set this row to 0"),
    "a padding row that is trained": (lambda: Language().double(), r"padding_idx=0 in its layer 'embedding'.*leave"),
    "torch's random numbers": (lambda: Wrapped(None, lambda m, o: o * torch.rand_like(o)), "random numbers of its own"),
    "those of a generator": (
        lambda: Wrapped(None, lambda m, o: noisy(o)),
        r"its top level \(Wrapped\) \(by torch's randn",
    ),
    "numpy's": (lambda: Wrapped(None, lambda m, o: o * np.random.rand()), OTHERWISE),
    "python's": (lambda: Wrapped(None, lambda m, o: o * random.random()), OTHERWISE),
    "a state": (lambda: Wrapped(lambda m, x: setattr(m, "number", m.number + 1), lambda m, o: o * m.number), OTHERWISE),
    "a state in a buffer": (lambda: Wrapped(lambda m, x: m.calls.add_(1), lambda m, o: o * m.calls), OTHERWISE),
    "a schedule of dropout": (lambda: Wrapped(lambda m, x: setattr(m.net[2], "p", m.net[2].p / 2)), OTHERWISE),
    "every other layer": (
        lambda: Wrapped(lambda m, x: m.listed.append(0) or (m.net[2](x) if len(m.listed) % 2 else x)),
        OTHERWISE,
    ),
    "recurrent dropout": (
        lambda: Tokens(nn.GRU(2, 3, 2, dropout=0.3, batch_first=True), 3).double(),
        r"random numbers of its own in its layer 'mix' \(GRU\)",
    ),
    "dropout of an LSTM": (
        lambda: Tokens(nn.LSTM(2, 3, 2, dropout=0.3, batch_first=True), 3).double(),
        r"layer 'mix' \(LSTM\).*set the dropout inside recurrent layers to 0",
    ),
    "alpha dropout": (lambda: perceptron(nn.AlphaDropout(0.2)), r"layer '3' \(AlphaDropout\)"),
    "batch norm": (lambda: perceptron(nn.BatchNorm1d(3)), r"train mode in its layer '3' \(BatchNorm1d\)"),
    "coupled samples": (lambda: Wrapped(None, lambda m, o: o - o.mean(0)), "must map each sample by itself"),
    "pairs of samples": (lambda: Wrapped(None, lambda m, o: o @ o.T), "must map each sample by itself"),
    "samples second": (
        lambda: Tokens(SelfAttention(2, 1)).double(),
        r"must map each sample by itself.*batch_first=True",
    ),
    "a fixed number": (lambda: Wrapped(None, lambda m, o: o.view(6, 1)), r"shape \(2, 4\).*let it take any number"),
    "writes its inputs": (lambda: Wrapped(lambda m, x: x.mul_(0.5)), "writes into its inputs x"),
    "item": (lambda: Wrapped(None, lambda m, o: o * 0 if o.max().item() > 9 else o), "torch.where instead of if"),
    "branch": (lambda: Wrapped(None, lambda m, o: o * 0 if o.max() > 9 else o), "torch.where instead of if"),
    "writes a constant": (lambda: Wrapped(lambda m, x: m.constant.mul_(0.9)), "make new values in forward"),
    "checkpoint": (lambda: Checkpointed(), "take torch.utils.checkpoint"),
    "spectral_norm": (
        lambda: perceptron(parametrizations.spectral_norm(nn.Linear(3, 3))),
        r"the same inputs \(forward changes 3.parametrizations.weight.0._u, .*eval mode",
    ),
    "autograd.Function": (
        lambda: Wrapped(None, lambda m, o: Slope.apply(o)),
        "must allow gradients by torch.func.grad",
    ),
    "dropout of the inputs in place": (
        lambda: nn.Sequential(nn.Dropout(0.2, inplace=True), nn.Linear(4, 1)).double(),
        r"layer '0' \(Dropout\).*inplace=False",
    ),
    "dropout of a tanh in place": (
        lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Dropout(0.2, inplace=True), nn.Linear(3, 1)).double(),
        "inplace=False",  # torch cannot, either
    ),
    "a lock": (lambda: Wrapped(lock=threading.Lock()), "the attribute lock of its top level"),
    "a hook that keeps": (hooked, r"hooks of its layer '1' \(Tanh\) are the reason"),
    "compiled": (lambda: torch.compile(perceptron(), backend="eager"), "is compiled by torch.compile in its top level"),
    "compiled inside": (
        lambda: perceptron(torch.compile(nn.Linear(3, 3), backend="eager")),
        "is compiled by torch.compile in its layer '3'",
    ),
    "compiled in place": (lambda: compiled(perceptron()), "is compiled by torch.compile in its top level"),
    "lazy": (
        lambda: nn.Sequential(nn.LazyLinear(3), nn.LazyLinear(1)).double(),
        r"lazy layer, layer '0' \(LazyLinear\)",
    ),
    "no parameters": (lambda: nn.Dropout(0.2), "has no parameters"),
    "meta": (lambda: perceptron().to("meta"), "meta device"),
    "complex": (Complex, "weight is torch.complex128; write it as two real parameters"),
    "bfloat16": (lambda: perceptron().bfloat16(), r"0.weight is torch.bfloat16; convert the module by .double\(\)"),
    "float16": (lambda: perceptron().half(), "0.weight is torch.float16"),
    "two dtypes": (lambda: with_parts(torch.float32), "one dtype, got torch.float32 and torch.float64"),
    "frozen": (lambda: perceptron().requires_grad_(False), "frozen parameters only"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("options", [{}, {"masks": "shared", "batch_size": 3}], ids=["full", "batch"])
def test_what_cannot_be_used_is_refused_by_a_sentence(case, options):
    make, message = REFUSED[case]
    module, generator = make(), torch.get_rng_state()
    with pytest.raises(ValueError, match=message) as refused:
        sme.ModuleProblem(module, X, Y, **options)
    assert isinstance(refused.value, SmesolveError)
    assert "\n" not in str(refused.value)
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize("case", ["torch's random numbers", "coupled samples", "item", "a lock", "checkpoint"])
def test_features_are_tried_too(case):
    network = sme.FeatureNetwork(REFUSED[case][0](), nn.Linear(1, 1).double())
    network.features.net[2].eval()
    with pytest.raises(ValueError, match=REFUSED[case][1]) as refused:
        sme.DropoutProblem(network, X, Y, keep_prob=0.8)
    assert str(refused.value).startswith("features ")


def test_modules_with_parametrizations_are_pickled():
    problem = used(TAKEN["weight_norm"]())
    theta, draw = problem.initial(0), problem.sample(3, 0)
    expected = problem.gradient(theta, draw)
    copied = pickle.loads(pickling.dumps(problem))
    assert torch.equal(copied.gradient(theta, draw), expected)
    assert torch.equal(copied.initial(1), problem.initial(1))


@pytest.mark.slow
def test_modules_with_parametrizations_go_to_workers():
    problem = used(TAKEN["weight_norm"]())
    theta = problem.initial(0)
    alone = sme.iterate(problem, theta, 0.1, 1, 2 * problem.block_size)
    assert torch.equal(sme.iterate(problem, theta, 0.1, 1, 2 * problem.block_size, workers=2), alone)
