"""Laws of random variables that are not masks: a sample's index, and noise that is added.

Mask laws (mean 1) are in `smesolve.problem.masks`; `Law` is what an iteration asks of each of them.
"""

from __future__ import annotations

from typing import Any

from sympy import Rational

from smesolve.arguments import checked
from smesolve.errors import SmesolveError
from smesolve.problem.masks import Law, MaskLaw
from smesolve.symbolic.term_count import MOST_TERMS

__all__ = ["Centred", "SampleIndex"]


class SampleIndex(Law):
    """An index uniform on 1, ..., samples: which sample a step of SGD takes."""

    @checked
    def __init__(self, samples: int) -> None:
        if samples > MOST_TERMS:
            raise SmesolveError(
                f"samples={samples} of SampleIndex is more than {MOST_TERMS}, each of which is a term of the "
                "step; take fewer."
            )
        self.samples = samples

    @property
    def mean(self) -> Rational:
        """(samples + 1)/2."""
        return Rational(self.samples + 1, 2)

    def central_moment(self, j: int) -> Rational:
        """(1/samples) sum_i (i - mean)^j, in integers."""
        total = sum((2 * i - self.samples - 1) ** j for i in range(1, self.samples + 1))
        return Rational(total, 2**j * self.samples)

    @property
    def support(self) -> tuple[list[int], list[Rational]]:
        """1, ..., samples with probability 1/samples each."""
        return list(range(1, self.samples + 1)), [Rational(1, self.samples)] * self.samples

    def __repr__(self) -> str:
        return f"SampleIndex({self.samples})"


class Centred(Law):
    """eta - 1 for eta of a mask law: noise of mean 0 with the same central moments."""

    mean = 0

    @checked
    def __init__(self, law: MaskLaw) -> None:
        self.law = law

    def central_moment(self, j: int) -> Any:
        """That of the mask law."""
        return self.law.central_moment(j)

    @property
    def support(self) -> tuple[list[Any], list[Any]] | None:
        """The mask law's values, less 1."""
        if self.law.support is None:
            return None
        values, probabilities = self.law.support
        return [value - 1 for value in values], probabilities

    def __repr__(self) -> str:
        return f"Centred({self.law!r})"
