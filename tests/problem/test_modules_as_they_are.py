"""Modules as users have them: the gradient of a problem is torch's own, under the masks that torch itself has drawn."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.utils._python_dispatch import TorchDispatchMode

import smesolve as sme
from smesolve.problem.module_trial import ModuleTrial

N = 4
GENERATOR = torch.Generator().manual_seed(0)
VECTORS, IMAGES, VOLUMES = (
    torch.randn(shape, generator=GENERATOR, dtype=torch.float64) for shape in ((N, 3), (N, 2, 4, 4), (N, 2, 3, 3, 3))
)
SEQUENCES = torch.randn(N, 3, 4, generator=GENERATOR, dtype=torch.float64)
TOKENS = torch.randint(0, 7, (N, 5), generator=GENERATOR)
CLASSES = torch.tensor([0, 1, 1, 0])


class Steps(nn.Module):
    """Layers of its own, which a function of it and of its input puts together."""

    def __init__(self, forward, **layers):
        super().__init__()
        self._forward = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self._forward(self, x)


def perceptron(first=None, last=None, drop=None):
    return nn.Sequential(first or nn.Linear(3, 4), nn.Tanh(), drop or nn.Dropout(0.2), last or nn.Linear(4, 2))


def convolutions(kind, conv, drop, size):
    return nn.Sequential(conv(kind, 3, 2), nn.Tanh(), drop(0.3), nn.Flatten(), nn.Linear(size, 2))


def attention(need_weights):
    def forward(module, x):
        return module.last(module.mix(x, x, x, need_weights=need_weights)[0].mean(1))

    return Steps(forward, mix=nn.MultiheadAttention(4, 2, dropout=0.2, batch_first=True), last=nn.Linear(4, 2))


def dropped_pairs(module, x):
    """Attention by the function, causal, and grouped queries."""
    q, k, v = (one.unflatten(-1, (2, 2)).transpose(1, 2) for one in module.into(x).chunk(3, -1))
    p = 0.2 if module.training else 0.0
    out = functional.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True, scale=0.4)
    return module.last((out + functional.scaled_dot_product_attention(q, k, v, k @ q.mT < 0.5, p)).flatten(1))


def encoder(batch_first):
    def forward(module, x):
        mixed = module.mix(x if batch_first else x.transpose(0, 1))
        return module.last(mixed.mean(1 if batch_first else 0))

    layer = nn.TransformerEncoderLayer(4, 2, 5, dropout=0.2, batch_first=batch_first)
    return Steps(forward, mix=layer, last=nn.Linear(4, 2))


def language_model():
    layer = nn.TransformerEncoderLayer(4, 2, 5, dropout=0.1, batch_first=True, norm_first=True)
    body = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    return nn.Sequential(nn.Embedding(7, 4), nn.Dropout(0.1), body, nn.Flatten(), nn.Linear(20, 2))


def frozen(module, *names):
    for name in names:
        module.get_parameter(name).requires_grad_(False)
    return module


def counting():
    module = Steps(lambda m, x: m.calls.add_(1) * 0 + m.last(m.drop(x)), last=nn.Linear(3, 2), drop=nn.Dropout(0.2))
    module.register_buffer("calls", torch.zeros((), dtype=torch.long))
    return module


def whole_tokens():
    """Masks of the shape (n, L, 1): whole tokens are dropped."""
    return Steps(
        lambda m, x: m.last((x * m.drop(torch.ones_like(x[..., :1]))).mean(1)),
        last=nn.Linear(4, 2),
        drop=nn.Dropout(0.3),
    )


def heads_first():
    """One call drops all samples of one part, then those of the other."""

    def forward(module, x):
        parts = module.drop(torch.cat(module.first(x).chunk(2, -1)))
        return module.last(parts[: len(x)] * parts[len(x) :])

    return Steps(forward, first=nn.Linear(3, 4), last=nn.Linear(2, 2), drop=nn.Dropout(0.3))


def tied():
    module = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Dropout(0.2), nn.Linear(3, 3), nn.Linear(3, 2))
    module[3].weight = module[0].weight
    return module


def pairwise():
    """Distances to centres, whose operation in torch has no second derivative."""
    return Steps(
        lambda m, x: m.last(m.drop(torch.cdist(x, m.centres))),
        last=nn.Linear(3, 2),
        drop=nn.Dropout(0.2),
        centres=nn.Parameter(torch.randn(3, 3, generator=torch.Generator().manual_seed(1))),
    )


class Cubed(torch.autograd.Function):
    """A function of a user's that has gradients and no forward derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, cotangent):
        return 3 * ctx.saved_tensors[0] ** 2 * cotangent


CASES = {
    "dropout": (perceptron, VECTORS),
    "embedding": (lambda: nn.Sequential(nn.Embedding(7, 3), nn.Dropout(0.2), nn.Flatten(), nn.Linear(15, 2)), TOKENS),
    "embedding of padding": (
        lambda: nn.Sequential(nn.Embedding(7, 3, padding_idx=2), nn.Dropout(0.2), nn.Flatten(), nn.Linear(15, 2)),
        TOKENS,
    ),
    "bags": (lambda: perceptron(nn.EmbeddingBag(7, 4, padding_idx=2)), TOKENS),
    "dropout of channels, 1d": (lambda: convolutions(3, nn.Conv1d, nn.Dropout1d, 9), SEQUENCES),
    "dropout of channels, 2d": (lambda: convolutions(2, nn.Conv2d, nn.Dropout2d, 27), IMAGES),
    "dropout of channels, 3d": (lambda: convolutions(2, nn.Conv3d, nn.Dropout3d, 24), VOLUMES),
    "attention, weights returned": (lambda: attention(True), SEQUENCES),
    "attention": (lambda: attention(False), SEQUENCES),
    "attention by function": (lambda: Steps(dropped_pairs, into=nn.Linear(4, 12), last=nn.Linear(12, 2)), SEQUENCES),
    "encoder": (lambda: encoder(True), SEQUENCES),
    "encoder, time first": (lambda: encoder(False), SEQUENCES),
    "language model": (language_model, TOKENS),
    "whole tokens": (whole_tokens, SEQUENCES),
    "samples of parts": (heads_first, VECTORS),
    "frozen layer": (lambda: frozen(perceptron(), "0.weight", "0.bias"), VECTORS),
    "frozen in between": (lambda: frozen(perceptron(), "0.bias", "3.weight"), VECTORS),
    "weight_norm": (lambda: perceptron(parametrizations.weight_norm(nn.Linear(3, 4))), VECTORS),
    "orthogonal": (lambda: perceptron(parametrizations.orthogonal(nn.Linear(3, 4))), VECTORS),
    "a counter": (counting, VECTORS),
    "shared weights": (tied, VECTORS),
    "distances": (pairwise, VECTORS),
    "no forward derivative": (
        lambda: perceptron(last=Steps(lambda m, x: m.last(Cubed.apply(x)), last=nn.Linear(4, 2))),
        VECTORS,
    ),
}
LONG = {"encoder, time first", "language model", "orthogonal", "attention by function"}


class MasksOfTorch(TorchDispatchMode):
    """Keeps what torch's own dropout draws."""

    def __init__(self):
        super().__init__()
        self.masks = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket is torch.ops.aten.bernoulli_:
            self.masks.append(result)
        return result


def made(name, **options):
    if name == "no forward derivative" and torch.__version__.startswith("2.4."):
        pytest.skip("torch 2.4 does not batch such functions; one sentence refuses them")
    torch.manual_seed(3)
    make, x = CASES[name]
    module = make().double()
    return module, sme.ModuleProblem(module, x, CLASSES, loss="cross_entropy", **options)


def drawn_by_torch(module, problem):
    """Return the gradient (D,) by torch alone, with masks that torch draws, and these masks as a draw."""
    torch.manual_seed(5)
    with MasksOfTorch() as found:
        loss = functional.cross_entropy(module(problem.x), CLASSES)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, trained)])
    draw = {}
    for mask, (key, layer) in zip(found.masks, problem._layers.items(), strict=True):
        rows = mask.movedim(layer.axis, 0)
        if layer.parts > 1:
            sizes = (N, layer.parts) if layer.samples_outside else (layer.parts, N)
            rows = rows.unflatten(0, sizes) if layer.samples_outside else rows.unflatten(0, sizes).transpose(0, 1)
        draw[key] = rows
    return gradient, draw


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in CASES])
def test_gradients_are_those_of_torch_under_its_own_masks(name):
    module, problem = made(name)
    theta = problem.initial(seed=None)
    assert torch.equal(theta, torch.cat([p.detach().flatten() for p in module.parameters() if p.requires_grad]))
    gradient, draw = drawn_by_torch(module, problem)
    assert float(gradient.norm()) > 1e-3
    assert torch.allclose(problem.gradient(theta, draw), gradient, rtol=1e-9, atol=1e-12)
    # Every path of a step has masks of its own, of which each sample has one.
    draws = problem.sample(2, seed=1)
    both = torch.stack([problem.gradient(theta, {key: part[path] for key, part in draws.items()}) for path in range(2)])
    assert torch.allclose(problem.gradient(theta.expand(2, -1), draws), both, rtol=1e-10, atol=1e-13)
    assert not torch.allclose(both[0], both[1])
    step = sme.iterate(problem, theta, lr=0.1, steps=1, paths=2, seed=4)[-1]
    assert torch.isfinite(step).all() and not torch.equal(step[0], step[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_their_weak_errors_are_measured_by_defects(name):
    _, problem = made(name)
    study = sme.weak_error(
        problem, problem.initial(seed=None), lrs=[0.1], horizon=0.3, estimator="defects", paths=16, observables=["loss"]
    )
    assert study.table.error.notna().all() and study.table.stderr.gt(0).all()


@pytest.mark.parametrize("name", ["attention, weights returned", "samples of parts"])
def test_the_masks_of_a_sample_reach_that_sample_only(name):
    """In a mini-batch, and where all samples share a mask."""
    module, problem = made(name, batch_size=2)
    theta, draw = problem.initial(seed=None), problem.sample(1, seed=0)
    one = {key: part[0] for key, part in draw.items()}
    rows = one["indices"]
    alone = [
        sme.ModuleProblem(module, problem.x[rows[k : k + 1]], CLASSES[rows[k : k + 1]], "cross_entropy")
        for k in range(2)
    ]
    masks = [{key: part[k : k + 1] for key, part in one.items() if key != "indices"} for k in range(2)]
    mean = sum(problem.gradient(theta, mask) for problem, mask in zip(alone, masks, strict=True)) / 2
    assert torch.allclose(problem.gradient(theta, one), mean, rtol=1e-10)
    shared = made(name, masks="shared")[1]
    (key, mask), *_ = shared.sample(1, seed=0).items()
    same = {key: mask[0].expand(N, *mask.shape[2:])}
    assert torch.allclose(shared.gradient(theta, {key: mask[0]}), made(name)[1].gradient(theta, same), rtol=1e-12)


def test_integers_stay_integers_where_the_module_takes_them():
    for kind in (torch.uint8, torch.int32, torch.int64):
        module = CASES["embedding"][0]().double()
        assert sme.ModuleProblem(module, TOKENS.to(kind), CLASSES, "cross_entropy").x.dtype == torch.int64
    assert sme.ModuleProblem(perceptron().double(), TOKENS[:, :3], CLASSES, "cross_entropy").x.dtype == torch.float64
    with pytest.raises(sme.SmesolveError, match=r"layer '0' \(Embedding\) fails .*out of range"):
        sme.ModuleProblem(CASES["embedding"][0]().double(), TOKENS + 5, CLASSES, "cross_entropy")
    with pytest.raises(sme.SmesolveError, match=r"layer '0' \(Linear\) fails .*shapes cannot be multiplied"):
        sme.ModuleProblem(perceptron().double(), TOKENS, CLASSES, "cross_entropy")


def test_rows_of_padding_stay_zero():
    """Also under momentum and weight decay, and in Hessian products, which are those of the loss."""
    _, problem = made("embedding of padding", weight_decay=0.1)
    theta, row = problem.initial(seed=1), slice(6, 9)
    assert (TOKENS == 2).any() and theta[:6].all() and not theta[row].any()
    training = sme.Training(problem, torch.optim.SGD, lr=0.1, momentum=0.5)
    end = sme.iterate(training, training.initial(seed=1), lr=0.1, steps=3, paths=1)[-1, 0, : problem.dim]
    assert not end[row].any() and (end != theta).sum() > 20
    hessian = torch.func.hessian(problem.modified_loss)(theta)
    expected = torch.zeros_like(hessian)
    expected[row, row] = 0.1 * torch.eye(3, dtype=torch.float64)
    assert torch.allclose(hessian[row], expected[row], atol=1e-16) and torch.allclose(hessian, hessian.mT)
    masks = problem.sample(1, seed=0)
    moved = theta.clone()
    moved[row] = 1.0
    assert torch.equal(problem.gradient(moved, masks)[..., 9:], problem.gradient(theta, masks)[..., 9:])


def test_what_is_trained_is_what_is_not_frozen():
    module, problem = made("frozen in between", weight_decay=0.1)
    assert problem.parameter_names == ["0.weight", "3.bias"] and problem.dim == 12 + 2
    before = {name: value.clone() for name, value in module.state_dict().items()}
    drawn = problem.initial(seed=1)
    end = problem.to_module(sme.iterate(problem, drawn, lr=0.1, steps=3, paths=1)[-1, 0])
    for name, value in end.state_dict().items():
        assert torch.equal(value, before[name]) == (name in ("0.bias", "3.weight"))
    assert all(torch.equal(module.state_dict()[name], value) for name, value in before.items())


def test_masks_of_one_sample_that_reach_others_are_refused():
    """Drops a product of samples in an order that is neither samples by parts nor parts by samples."""

    def forward(module, x):
        parts = module.first(x).unflatten(-1, (2, 2)).flatten(0, 1)
        return module.last(module.drop(parts.flip(0)).unflatten(0, (len(x), 2)).flatten(1).flip(0).flip(1))

    module = Steps(forward, first=nn.Linear(3, 4), last=nn.Linear(4, 2), drop=nn.Dropout(0.3)).double()
    with pytest.raises(sme.SmesolveError, match="masks of one sample change the outputs of others"):
        ModuleTrial("module", module, VECTORS).dropout_layers()
