"""How far a model is to shrink, in the terms that a user says it in."""

from __future__ import annotations

from dataclasses import dataclass

from onnxcomp.errors import RecipeError

DEFAULT_RATIO = 0.25
UNITS = {"macs": "MACs", "params": "parameters", "bytes": "bytes", "milliseconds": "ms"}


@dataclass(frozen=True)
class Budget:
    """At most `amount` of a kind: "macs", "params", "bytes" or "milliseconds".

    Of MACs it is the share of the original's that goes.
    """

    kind: str
    amount: float

    def limit(self, whole: float) -> float:
        """Return the most that a model may cost which costs so much at first."""
        return whole * (1 - self.amount) if self.kind == "macs" else self.amount

    @property
    def is_nothing(self) -> bool:
        """Whether nothing is to go."""
        return self.kind == "macs" and self.amount == 0


def read_budget(
    ratio: float | None, params: float | None, size: float | None, milliseconds: float | None
) -> Budget:
    """Return the one budget that is given; a quarter of the MACs where none is.

    Raises `RecipeError` for several, and for one that is out of range.
    """
    given = {"macs": ratio, "params": params, "bytes": size, "milliseconds": milliseconds}
    known = [Budget(kind, float(amount)) for kind, amount in given.items() if amount is not None]
    if len(known) > 1:
        raise RecipeError(
            "prune-channels takes one of ratio, params, bytes and milliseconds, "
            f"not {len(known)} of them"
        )
    if not known:
        return Budget("macs", DEFAULT_RATIO)
    [budget] = known
    if budget.kind == "macs" and not 0 <= budget.amount < 1:
        raise RecipeError(
            "prune-channels: ratio is the share of MACs to remove, from 0 to below 1, "
            f"not {budget.amount:g}"
        )
    if budget.kind != "macs" and not budget.amount > 0:
        raise RecipeError(f"prune-channels: {budget.kind} must be more than 0")
    return budget


def say(kind: str, amount: float) -> str:
    """Return an amount with its unit."""
    return f"{amount:.4g} ms" if kind == "milliseconds" else f"{amount:,.0f} {UNITS[kind]}"
