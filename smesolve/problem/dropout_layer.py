"""One call of dropout in every forward pass of a module: the masks that it takes, and where the samples are in them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["DropoutLayer", "layers_of_call"]


@dataclass(frozen=True)
class DropoutLayer:
    """One call of dropout.

    Where each sample has a mask of its own, masks are drawn with the samples first, (n, ...), or (1, ...) if they
    share one. The call may have them elsewhere: in dimension `axis`, together with `parts` masks of each sample, such
    as those of the heads of attention.
    """

    shape: tuple[int, ...]
    """Shape of its masks, for one sample where each has its own; the first dimension is `parts` if that is above 1."""
    keep_prob: float
    per_sample: bool
    """Whether the samples can have masks of their own: not where a weight is dropped."""
    axis: int = 0
    """Dimension of the samples in the call."""
    parts: int = 1
    """Masks of each sample in that dimension."""
    samples_outside: bool = True
    """Whether all parts of a sample are adjacent in that dimension, or all samples of a part."""

    def placed(self, masks: Tensor, samples: int) -> Tensor:
        """Return masks (n or 1, ...) as the call takes them for so many samples."""
        if not self.per_sample:
            return masks
        if self.parts > 1:
            masks = masks.expand(samples, *masks.shape[1:])
            masks = (masks if self.samples_outside else masks.transpose(0, 1)).flatten(0, 1)
        return masks.movedim(0, self.axis)


def layers_of_call(
    shape: tuple[int, ...], few_shape: tuple[int, ...], keep_prob: float, samples: int, few: int
) -> list[DropoutLayer]:
    """Return what a call can be that drops by masks of one shape for all samples, and of another one for a few.

    An empty list where the samples are in no dimension, or in several; two layers where parts and samples share one.
    """
    if shape == few_shape:
        return [DropoutLayer(shape, keep_prob, per_sample=False)]
    if len(shape) != len(few_shape):
        return []
    differ = [axis for axis, (one, other) in enumerate(zip(shape, few_shape, strict=True)) if one != other]
    axis, parts = differ[0], shape[differ[0]] // samples
    if len(differ) > 1 or (shape[axis], few_shape[axis]) != (parts * samples, parts * few):
        return []
    others = (*shape[:axis], *shape[axis + 1 :])
    if parts == 1:
        return [DropoutLayer(others, keep_prob, True, axis)]
    return [DropoutLayer((parts, *others), keep_prob, True, axis, parts, outside) for outside in (True, False)]
