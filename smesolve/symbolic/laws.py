"""Laws of random variables that are not masks: the index of a sample, and additive noise.

Mask laws, which have mean 1, are in `smesolve.problem.masks`; `Law` is the interface of all laws.
"""

from __future__ import annotations

from typing import Any

from sympy import Rational

from smesolve.entry_point import entry_point
from smesolve.problem.masks import Law, MaskLaw
from smesolve.symbolic.term_count import MOST_TERMS
from smesolve.validation import check_instance, check_integer

__all__ = ["Centred", "SampleIndex"]


class SampleIndex(Law):
    """The uniform law on 1, ..., samples: the index of the sample that a step of SGD takes."""

    @entry_point
    def __init__(self, samples: int) -> None:
        self.samples = check_integer("samples", samples, most=MOST_TERMS, remedy="each sample is a term of the step")

    @property
    def mean(self) -> Rational:
        """The mean (samples + 1)/2."""
        return Rational(self.samples + 1, 2)

    def central_moment(self, j: int) -> Rational:
        """Return (1/samples) sum_i (i - mean)^j, computed in integers."""
        check_integer("j", j, 0)
        total = sum((2 * i - self.samples - 1) ** j for i in range(1, self.samples + 1))
        return Rational(total, 2**j * self.samples)

    @property
    def support(self) -> tuple[list[int], list[Rational]]:
        """The values 1, ..., samples, with probability 1/samples each."""
        return list(range(1, self.samples + 1)), [Rational(1, self.samples)] * self.samples

    def __repr__(self) -> str:
        return f"SampleIndex({self.samples})"


class Centred(Law):
    """The law of eta - 1 for a mask eta: noise of mean 0 with the central moments of the mask."""

    mean = 0

    @entry_point
    def __init__(self, law: MaskLaw) -> None:
        self.law = check_instance("law", law, MaskLaw, "a MaskLaw, such as BernoulliMasks(keep_prob)")

    def central_moment(self, j: int) -> Any:
        """Return the central moment of the mask law."""
        return self.law.central_moment(j)

    @property
    def support(self) -> tuple[list[Any], list[Any]] | None:
        """The values of the mask law minus 1, and their probabilities."""
        if self.law.support is None:
            return None
        values, probabilities = self.law.support
        return [value - 1 for value in values], probabilities

    def __repr__(self) -> str:
        return f"Centred({self.law!r})"
