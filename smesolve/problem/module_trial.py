"""A trial of the operations of a study on a copy of a module, before the study begins.

Forward passes show where the module drops, and passes on all samples and on a few show which dimensions belong to the
samples. Derivatives, batches of paths, copies and pickles are tried as studies use them. Parameters are the module's
own plus noise, because a layer of zeros would hide the layers below it.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from smesolve.errors import SmesolveError, call_of_user, shown
from smesolve.problem.function_trial import called, check_derivative, check_rows, equal_up_to_rounding
from smesolve.problem.losses import SampleLoss
from smesolve.problem.module_function import DropoutCall, DropoutLayer, ModuleFunction, layers_of_call
from smesolve.problem.one_at_a_time import forward_derivative
from smesolve.problem.parameters import copied, held, trainable
from smesolve.sampling import pickling

__all__ = ["ModuleTrial", "tried"]

PATHS = 2

NEW_VALUES = (
    "make new values in forward instead of writing into tensors (inplace=False), or put the layer into eval mode"
)
REMEDIES = {
    "data-dependent control flow": "write what depends on values by torch.where instead of if and .item()",
    "saved tensor hooks": "take torch.utils.checkpoint and other hooks on saved tensors out of forward",
    "stateless API": "give the torch.nn.Module that it was made of",
    "in-place": NEW_VALUES,
    "inplace": NEW_VALUES,
}
"""Remedies by a part of torch's message."""

OTHER_REMEDY = "write it by operations that torch.func can differentiate and batch, or put the layer into eval mode"


class ModuleTrial:
    """A trial of a module on all its inputs x, which changes neither the module nor torch's random generator.

    `function` is a copy of the module, with the same parameters, buffers, and train and eval flags, as a function of
    its parameters. `name` names the module in messages.

    Raises:
        SmesolveError: the module cannot be copied.
    """

    def __init__(self, name: str, module: nn.Module, x: Tensor) -> None:
        self.name, self.x, self.samples = name, x, x.shape[0]
        self.function = ModuleFunction(copied(name, module, share=True), name)
        self._dtype = next((one.dtype for one in trainable(module).values()), x.dtype)
        self._generator = torch.Generator(device="cpu").manual_seed(0)
        self.theta = self._with_noise()
        few = 2 if self.samples != 2 else 3
        self._few = torch.arange(few, device=x.device) % self.samples

    def _with_noise(self) -> Tensor:
        """Return the present parameters plus normals of a tenth of each tensor's size, 0.1 where a tensor is zero."""
        values = [part.detach().flatten() for part in trainable(self.function.module).values() if part.numel()]
        noise = [0.1 * (float(value.square().mean().sqrt()) or 1.0) * self._normals(value.shape) for value in values]
        return torch.cat(values) + torch.cat(noise) if values else self._normals((0,))

    def _normals(self, shape: Sequence[int]) -> Tensor:
        normals = torch.randn(shape, generator=self._generator, dtype=torch.float64, device="cpu")
        return normals.to(device=self.x.device, dtype=self._dtype)

    # --- forward passes ------------------------------------------------------------------------------------------

    def dropout_layers(self) -> list[DropoutLayer]:
        """Return the calls of dropout in the module. Cost: a pass on all samples, and three on a few.

        Raises:
            SmesolveError: the module fails, draws random numbers of its own, couples the samples, writes into x, or
                drops a tensor that neither has a dimension of the samples nor is the same for all of them.
        """
        outputs, calls = self._pass(self.x, self.function.dropout_calls, f"give inputs that it takes as {self.x.dtype}")
        if not isinstance(outputs, Tensor) or outputs.shape[:1] != self.x.shape[:1]:
            raise SmesolveError(
                f"{self.name} must map x to one row of outputs for each of the {self.samples} samples, got "
                f"{shown(outputs)}."
            )
        few, remedy = self.x[self._few], "let it take any number of samples"
        few_outputs, few_calls = self._pass(few, self.function.dropout_calls, remedy)
        ((first, first_calls), (second, second_calls)), buffers = self._pass(few, self.function.called_twice, remedy)
        self.function.changing = frozenset(buffers)
        if first_calls != second_calls or not equal_up_to_rounding(first, second):
            changed = f" (forward changes {', '.join(buffers[:3])})" if buffers else ""
            raise SmesolveError(
                f"{self.name} gives other outputs or drops otherwise at the second of two calls on the same inputs"
                f"{changed}; make them a function of inputs and parameters, without random numbers of numpy or python "
                "and without a state, or put the layer with the state into eval mode."
            )
        if not equal_up_to_rounding(few_outputs, outputs[self._few]):
            raise SmesolveError(
                f"{self.name} must map each sample by itself, but its outputs for some samples change when others are "
                "left out; put the samples first (batch_first=True), and layers with batch statistics into eval mode."
            )
        if len(calls) != len(few_calls):
            raise SmesolveError(
                f"{self.name} calls dropout {len(calls)} times on {self.samples} samples and {len(few_calls)} times on "
                f"{len(self._few)}; drop all samples by one call."
            )
        return self._ordered([self._layers(*pair) for pair in zip(calls, few_calls, strict=True)])

    def _ordered(self, choices: Sequence[Sequence[DropoutLayer]]) -> list[DropoutLayer]:
        """Return the choice of layers for which the masks of a sample change the outputs of that sample only.

        If the samples come first, one per row, there is no choice. Otherwise, cost: two or four passes on a few samples
        for each such call.
        """
        layers = [choice[0] for choice in choices]
        for position, choice in enumerate(choices):
            if not (choice[0].per_sample and (choice[0].axis or choice[0].parts > 1)):
                continue
            found = [
                layer
                for layer in choice
                if self._own_masks([*layers[:position], layer, *layers[position + 1 :]], position)
            ]
            if not found:
                raise SmesolveError(
                    f"{self.name} drops in its call {position} of dropout by masks of shape {choice[0].shape} for each "
                    "sample, but masks of one sample change the outputs of others; put the samples first."
                )
            layers[position] = found[0]
        return layers

    def _own_masks(self, layers: Sequence[DropoutLayer], position: int) -> bool:
        """Return whether another mask of the first sample in one call leaves the outputs of the others unchanged."""
        few = len(self._few)
        masks = [layer.shape if not layer.per_sample else (few, *layer.shape) for layer in layers]
        values = [1 + 0.5 * self._normals(shape) for shape in masks]
        before, after = [], values[position].clone()
        after[0] = after[0] + 1
        for changed in (values[position], after):
            given = [*values[:position], changed, *values[position + 1 :]]
            placed = [layer.placed(mask, few) for layer, mask in zip(layers, given, strict=True)]
            before.append(self.function(self.theta, self.x[self._few], placed))
        return equal_up_to_rounding(before[0][1:], before[1][1:])

    def _layers(self, call: DropoutCall, few: DropoutCall) -> list[DropoutLayer]:
        """Return the possible layouts of a call on all samples, given the same call on a few samples."""
        if not 0 < call.drop_prob < 1:
            raise SmesolveError(
                f"{self.name} drops with p={call.drop_prob:g} in its {call.layer}, but p must lie in [0, 1); set it, "
                "or put the layer into eval mode."
            )
        found = layers_of_call(call.shape, few.shape, 1 - call.drop_prob, self.samples, len(self._few))
        if not found:
            raise SmesolveError(
                f"{self.name} drops by a mask of shape {call.shape} in its {call.layer}, which has no dimension of the "
                f"{self.samples} samples; put the samples first."
            )
        return found

    def _pass(self, x: Tensor, function: Callable[[Tensor, Tensor], Any], remedy: str) -> Any:
        """Return function(parameters, a copy of x), which must draw no random numbers."""
        own = x.clone()
        with torch.random.fork_rng(devices=[] if x.device.type == "cpu" else [x.device]), _RandomCalls(self):
            found = self._attempt(f"work on x of shape {tuple(x.shape)}", function, self.theta, own, remedy=remedy)
        if not equal_up_to_rounding(own, x):
            raise SmesolveError(f"{self.name} writes into its inputs x; let it work on x.clone(), or make new values.")
        return found

    def outputs(self) -> Tensor:
        """Return the outputs on all samples, without dropout."""
        return self.function(self.theta, self.x)

    def losses(self, loss: SampleLoss, outputs: Tensor, y: Tensor) -> None:
        """Check that a loss gives one number per sample, which depends on outputs and target of that sample only.

        Raises:
            SmesolveError: the loss fails, writes into y, returns another shape or dtype, or mixes the samples, as by
                broadcasting outputs (n, 1) against targets (n,).
        """
        found = call_of_user("loss", called, "loss", lambda targets: loss(outputs, targets), y)
        if not isinstance(found, Tensor) or tuple(found.shape) != (self.samples,) or found.dtype != self._dtype:
            raise SmesolveError(
                f"loss must give one {self._dtype} number for each of the {self.samples} samples, as torch's losses "
                f"with reduction='none' do, got {shown(found)}."
            )
        some = torch.arange(3, device=y.device) % self.samples
        self._attempt(
            "let loss work on some of the samples",
            lambda: check_rows("loss", lambda rows: loss(outputs[rows], y[rows]), some, "sample"),
        )

    # --- derivatives, copies, pickles ----------------------------------------------------------------------------

    def derivatives(
        self,
        loss: SampleLoss,
        y: Tensor,
        layers: Sequence[DropoutLayer] = (),
        shared: bool = True,
        batches: bool = False,
    ) -> None:
        """Check derivatives as studies take them, on a few samples. Cost: some 30 gradients of these.

        `shared` says whether all samples share a mask, and `batches` whether each path has samples of its own.

        Raises:
            SmesolveError: a derivative fails. The message names the first one.
        """
        few = self.x[self._few], y[self._few]
        rows = torch.stack([self._few.roll(path) for path in range(PATHS)]) if batches else None
        masks: dict[str, Tensor] = {}
        for number, layer in enumerate(layers):
            lead = (1 if shared else len(self._few),) if layer.per_sample else ()
            masks[str(number)] = 1 + 0.5 * self._normals((PATHS, *lead, *layer.shape))
        thetas = self.theta + 0.01 * self._normals((PATHS, len(self.theta)))
        along = self._normals(thetas.shape)

        def value(vector: Tensor, masks: Mapping[str, Tensor], rows: Tensor | None = None) -> Tensor:
            """Return the loss on a batch of its own, or on the few samples, which no derivative may write into."""
            inputs, targets = few if rows is None else (self.x[rows], y[rows])
            placed = [layer.placed(mask, len(inputs)) for layer, mask in zip(layers, masks.values(), strict=False)]
            return loss(self.function(vector, inputs, placed or None), targets).mean()

        slope, paths = grad(value), (0, 0, 0 if batches else None)

        def slopes(vectors: Tensor) -> Tensor:
            found: Tensor = vmap(slope, in_dims=paths)(vectors, masks, rows)
            return found

        def curvatures(vectors: Tensor) -> Tensor:
            return forward_derivative(slopes, vectors, along)[1]

        vector, mask = thetas[-1], {name: mask[-1] for name, mask in masks.items()}
        row = None if rows is None else rows[-1]
        one = self._attempt("allow gradients by torch.func.grad", slope, vector, mask, row)
        many = self._attempt("allow gradients of several paths at once by torch.func.vmap", slopes, thetas)
        if not equal_up_to_rounding(many[-1], one):
            raise SmesolveError(
                f"{self.name} has other gradients for several paths at once (torch.func.vmap) than for each by itself; "
                "make its outputs a function of inputs and parameters only, without a state that changes."
            )
        self._attempt(
            "allow losses of several paths at once by torch.func.vmap",
            vmap(lambda vector: value(vector, {})),
            thetas,
        )
        curved = self._attempt("allow forward derivatives of its gradient by torch.func.jvp", curvatures, thetas)
        curved_twice = self._attempt(
            "allow second forward derivatives of its gradient by torch.func.jvp",
            lambda: forward_derivative(curvatures, thetas, along)[1],
        )
        name, d = self.name, along[-1]
        check_derivative(f"loss of {name}", lambda vector: value(vector, mask, row), vector, d, (one * d).sum())
        check_derivative(f"gradient of {name}", slopes, thetas, along, curved)
        check_derivative(f"derivative of the gradient of {name}", curvatures, thetas, along, curved_twice)
        if mask:
            self._attempt(
                "allow derivatives in its dropout masks by torch.func.grad",
                grad(lambda mask: forward_derivative(lambda vector: value(vector, mask), vector, along[0])[1]),
                mask,
            )

    def pickles(self) -> None:
        """Check that the module can be pickled for worker processes, after its first calls.

        Raises:
            SmesolveError: the module cannot be pickled. The message names the attribute that is the reason.
        """
        try:  # without loading it: that would renew the user's classes in this process
            pickling.dumps(self.function.module)
        except Exception as error:
            raise SmesolveError(
                f"{self.name} must be pickled for worker processes, which failed ({_reason(error)}); "
                f"{held(self.function.module, pickling.dumps)}."
            ) from error

    def _attempt(self, what: str, function: Callable[..., Any], *values: Any, remedy: str = OTHER_REMEDY) -> Any:
        """Return function(*values), or raise one sentence that names the layer in which it fails."""
        try:
            return function(*values)
        except Exception as error:
            if isinstance(error, SmesolveError):
                raise
            frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
            layer = self.function.running_layer(reversed(frames))
            where = f"its {layer} fails" if layer else "that fails outside its layers, in the loss or in a derivative"
            remedy = next((known for part, known in REMEDIES.items() if part in str(error)), remedy)
            raise SmesolveError(f"{self.name} must {what}, but {where} ({_reason(error)}); {remedy}.") from error


def tried(
    name: str, module: nn.Module, x: Tensor, as_floats: Callable[[], Tensor]
) -> tuple[ModuleTrial, list[DropoutLayer]]:
    """Return the trial of a module and its calls of dropout, on integers if the module takes them, else on floats.

    `as_floats` returns the inputs x as floats, or refuses them.

    Raises:
        SmesolveError: as for `ModuleTrial.dropout_layers`. If the module takes neither, the error is the one for
            integers, unless the module refuses their dtype.
    """
    if x.is_floating_point():
        trial = ModuleTrial(name, module, x)
        return trial, trial.dropout_layers()
    trial = ModuleTrial(name, module, x if x.dtype == torch.bool else x.long())
    try:
        return trial, trial.dropout_layers()
    except SmesolveError as error:
        with_integers = error
    trial = ModuleTrial(name, module, as_floats())
    try:
        return trial, trial.dropout_layers()
    except SmesolveError as with_floats:
        raise with_floats if "dtype" in str(with_integers) else with_integers from None


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


class _RandomCalls(TorchDispatchMode):
    """Refuses all operations that draw random numbers: only masks of dropout can be drawn from the study's seed."""

    def __init__(self, trial: ModuleTrial) -> None:
        TorchDispatchMode.__init__(self)  # by name: type checkers find no annotations through super()
        self._trial = trial

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        before = self._state()
        result = func(*args, **kwargs)
        # Some kernels can draw, but do so only if they drop.
        if kwargs.get("generator") is not None or not torch.equal(before, self._state()):
            layer = self._trial.function.running_layer()
            raise SmesolveError(
                f"{self._trial.name} draws random numbers of its own in its {layer} "
                f"(by torch's {func.overloadpacket.__name__.rstrip('_')}), of unknown law; set the dropout inside "
                "recurrent layers to 0 and drop by torch.nn.Dropout, or put the layer into eval mode."
            )
        return result

    def _state(self) -> Tensor:
        """Return the state of the generator of the device on which the module works."""
        device = self._trial.x.device
        return torch.get_rng_state() if device.type == "cpu" else torch.cuda.get_rng_state(device)
