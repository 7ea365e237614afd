"""A call of dropout in the forward pass of a module: the shape of its masks, and where the samples are in them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["DropoutLayer", "layers_of_call"]


@dataclass(frozen=True)
class DropoutLayer:
    """One call of dropout.

    If samples can have masks of their own, masks are drawn with the samples first: (n, ...), or (1, ...) if all samples
    share one. The call may have the samples in another dimension, `axis`, and several masks per sample in it, `parts`,
    such as one per head of attention.
    """

    shape: tuple[int, ...]
    """Shape of the masks, of one sample if samples can have their own. The first dimension is `parts` if parts > 1."""
    keep_prob: float
    per_sample: bool
    """Whether the samples can have masks of their own. They cannot if a weight is dropped."""
    axis: int = 0
    """Dimension of the samples in the call."""
    parts: int = 1
    """Number of masks per sample in that dimension."""
    samples_outside: bool = True
    """Whether that dimension holds all parts of one sample after the other, instead of all samples of one part."""

    def placed(self, masks: Tensor, samples: int) -> Tensor:
        """Return masks (n or 1, ...) as the call takes them, n being `samples`."""
        if not self.per_sample:
            return masks
        if self.parts > 1:
            masks = masks.expand(samples, *masks.shape[1:])
            masks = (masks if self.samples_outside else masks.transpose(0, 1)).flatten(0, 1)
        return masks.movedim(0, self.axis)


def layers_of_call(
    shape: tuple[int, ...], few_shape: tuple[int, ...], keep_prob: float, samples: int, few: int
) -> list[DropoutLayer]:
    """Return the possible layouts of a call, given the shapes of its masks for all samples and for a few of them.

    The list is empty if no dimension, or more than one, holds the samples. It has two entries if samples and parts
    share a dimension, whose order the shapes do not show.
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
