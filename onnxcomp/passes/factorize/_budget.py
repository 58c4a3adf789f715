"""How far layers are to shrink, in the terms that a user says it in."""

from __future__ import annotations

from dataclasses import dataclass

from onnxcomp.errors import RecipeError

DEFAULT_ENERGY = 0.99


@dataclass(frozen=True)
class Budget:
    """An amount of a kind: "energy", "ratio", "params" or "rank".

    `energy` is the share of each layer's output that stays, `ratio` the share of MACs that goes,
    `params` the most numbers that the model may have, `rank` that of every layer.
    """

    kind: str
    amount: float

    @property
    def is_nothing(self) -> bool:
        """Whether nothing is to go."""
        return (self.kind, self.amount) in (("energy", 1.0), ("ratio", 0.0))


def read_budget(
    name: str,
    energy: float | None,
    ratio: float | None,
    params: float | None,
    rank: int | None,
) -> Budget:
    """Return the one budget that is given to the pass `name`, or the default.

    Raises `RecipeError` for several, and for one that is out of range.
    """
    given = {"energy": energy, "ratio": ratio, "params": params, "rank": rank}
    known = [Budget(kind, float(amount)) for kind, amount in given.items() if amount is not None]
    if len(known) > 1:
        kinds = " and ".join(budget.kind for budget in known)
        raise RecipeError(f"{name} takes one of energy, ratio, params and rank, not {kinds}")
    if not known:
        return Budget("energy", DEFAULT_ENERGY)
    [budget] = known
    if budget.kind == "energy" and not 0 < budget.amount <= 1:
        raise RecipeError(
            f"{name}: energy is the share that is kept, above 0 and up to 1, not {budget.amount:g}"
        )
    if budget.kind == "ratio" and not 0 <= budget.amount < 1:
        raise RecipeError(
            f"{name}: ratio is the share of MACs to remove, from 0 to below 1, "
            f"not {budget.amount:g}"
        )
    if budget.kind in ("params", "rank") and budget.amount < 1:
        raise RecipeError(f"{name}: {budget.kind} must be at least 1, not {budget.amount:g}")
    return budget


def check_choice(name: str, option: str, value: str, known: tuple[str, ...]) -> None:
    """Raise `RecipeError` for an option that is none of those known."""
    if value not in known:
        raise RecipeError(f"{name}: {option} is one of {', '.join(known)}, not {value!r}")
