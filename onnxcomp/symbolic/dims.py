"""Dims as polynomials over names: `2*N + 1` is known although N is not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

# Names of unknown integers begin with this; every other name stands for a dim, so for 0 or more.
UNKNOWN = "@"
# Longer polynomials are not worth their algebra; `simple` gives them up.
MAX_TERMS = 12

Monomial = tuple[str, ...]


@dataclass(frozen=True)
class Dim:
    """A polynomial with integer coefficients: sorted (factors, coefficient) pairs.

    A polynomial that is only a number is an int and never a `Dim`, so arithmetic mixes both.
    """

    terms: tuple[tuple[Monomial, int], ...]

    def __int__(self) -> int:
        raise TypeError(f"{self} is not a number")

    def __add__(self, other: int | Dim) -> int | Dim:
        total = Counter(dict(self.terms))
        for factors, number in _terms(other):
            total[factors] += number
        return _collect(total)

    def __mul__(self, other: int | Dim) -> int | Dim:
        total: Counter[Monomial] = Counter()
        for first, number in self.terms:
            for second, times in _terms(other):
                total[tuple(sorted(first + second))] += number * times
        return _collect(total)

    def __neg__(self) -> int | Dim:
        return self * -1

    def __sub__(self, other: int | Dim) -> int | Dim:
        return self + other * -1

    def __rsub__(self, other: int) -> int | Dim:
        return self * -1 + other

    __radd__ = __add__
    __rmul__ = __mul__

    @cached_property
    def text(self) -> str:
        """The polynomial as a name for a dim, equal for equal polynomials."""
        parts = []
        for factors, number in self.terms:
            product = "*".join(factors)
            parts.append(product if number == 1 and product else f"{number}*{product}".rstrip("*"))
        return " + ".join(parts)

    def __str__(self) -> str:
        return self.text


def _terms(value: int | Dim) -> tuple[tuple[Monomial, int], ...]:
    return value.terms if isinstance(value, Dim) else (((), int(value)),)


def _collect(total: Counter[Monomial]) -> int | Dim:
    terms = tuple(sorted((factors, number) for factors, number in total.items() if number))
    if not terms:
        return 0
    if len(terms) == 1 and terms[0][0] == ():
        return terms[0][1]
    return Dim(terms)


def named(name: str) -> Dim:
    """Return the dim of this name."""
    return Dim((((name,), 1),))


def is_simple(value: int | Dim) -> bool:
    """Say whether a polynomial is short enough to reckon with."""
    return not isinstance(value, Dim) or len(value.terms) <= MAX_TERMS


def is_known_size(value: int | Dim | None) -> bool:
    """Say whether a dim is known, and short enough to reckon with; no dim is negative."""
    if isinstance(value, Dim):
        return len(value.terms) <= MAX_TERMS
    return value is not None and value >= 0


def is_nonnegative(value: int | Dim) -> bool:
    """Say whether a polynomial is surely 0 or more: a sum of dims and positive numbers."""
    if not isinstance(value, Dim):
        return value >= 0
    return all(
        number > 0 and not any(name.startswith(UNKNOWN) for name in factors)
        for factors, number in value.terms
    )


def is_positive(value: int | Dim) -> bool:
    """Say whether a polynomial is surely 1 or more."""
    return is_nonnegative(value - 1)


def equal(first: int | Dim, second: int | Dim) -> bool | None:
    """Say whether two polynomials are surely equal or surely not, or None."""
    difference = first - second
    if not isinstance(difference, Dim):
        return difference == 0
    return False if is_positive(difference) or is_positive(-difference) else None


def less(first: int | Dim, second: int | Dim) -> bool | None:
    """Say whether first < second, surely so or surely not, or None."""
    if is_positive(second - first):
        return True
    return False if is_nonnegative(first - second) else None


def divide(value: int | Dim, by: int | Dim, *, floor: bool = False) -> int | Dim | None:
    """Return value / by rounded towards zero, as integer division in ONNX, or None.

    Exact where `by` is one product that divides every term. For a positive number and a dividend
    that is never negative (or to be rounded down, `floor`), what it divides is taken out and the
    rest becomes a name of its own.
    """
    if not isinstance(by, Dim) and by == 0:
        return None
    if not isinstance(value, Dim) and not isinstance(by, Dim):
        return value // by if floor else _truncated(value, by)
    divisor = _terms(by)
    if len(divisor) == 1:
        quotient = [_quotient(term, divisor[0]) for term in _terms(value)]
        if all(term is not None for term in quotient):
            return _collect(Counter(dict(term for term in quotient if term is not None)))
    if isinstance(by, Dim) or by < 0 or not (floor or is_nonnegative(value)):
        return None
    whole = Counter({fs: number // by for fs, number in _terms(value) if number % by == 0})
    rest = _collect(Counter({fs: number for fs, number in _terms(value) if number % by}))
    if not isinstance(rest, Dim):
        return _collect(whole) + rest // by
    return _collect(whole) + named(f"({rest})/{by}")


def at_most(value: int | Dim, limit: int) -> int | Dim:
    """Return min(value, limit) for a value that is never negative."""
    if not isinstance(value, Dim):
        return min(value, limit)
    return named(f"min({value},{limit})")


def is_at_most(first: int | Dim, second: int | Dim) -> bool:
    """Say whether the first is the second cut to some limit."""
    return isinstance(first, Dim) and first.text.startswith(f"min({second},")


def _truncated(value: int, by: int) -> int:
    return abs(value) // abs(by) * (1 if (value < 0) == (by < 0) else -1)


def _quotient(term: tuple[Monomial, int], by: tuple[Monomial, int]) -> tuple[Monomial, int] | None:
    left = Counter(term[0])
    left.subtract(by[0])
    if term[1] % by[1] or any(count < 0 for count in left.values()):
        return None
    return tuple(sorted(left.elements())), term[1] // by[1]
