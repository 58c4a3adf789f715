"""Which layer takes which form, so that all together are within a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxcomp.errors import ContractError
from onnxcomp.passes.factorize._forms import Form, Site

# Halvings of the price of a multiplication, in its logarithm.
HALVINGS = 80
LOWEST, HIGHEST = -40.0, 40.0

Choice = dict[Site, Form | None]


def by_energy(forms: Mapping[Site, Sequence[Form]], energy: float, *, smaller: bool) -> Choice:
    """Return for each layer by itself the cheapest form that keeps a share of its energy."""
    chosen: Choice = {}
    for site, known in forms.items():
        within = [form for form in known if form.error <= 1 - energy + 1e-12]
        chosen[site] = min(within, key=lambda form: _cost(form, params=smaller), default=None)
    return chosen


def by_cost(
    forms: Mapping[Site, Sequence[Form]], limit: float, *, params: bool, name: str
) -> Choice:
    """Return the forms of least error in all whose cost in all is at most `limit`.

    Each layer takes the form with the least error + price x cost, for the least price that meets
    the limit: a Lagrangian relaxation of the knapsack with several choices for each item. The cost
    is MACs, or parameters. Raises `ContractError` where even the cheapest forms cost more.
    """
    whole = sum(site.params if params else site.macs for site in forms) or 1
    if whole <= limit:
        return dict.fromkeys(forms)
    least = _total(_at_price(forms, 10.0**HIGHEST, whole, params=params), params=params)
    if least > limit:
        unit = "parameters" if params else "MACs"
        raise ContractError(
            f"{name} cannot reach {limit:,.0f} {unit}: of the {whole:,} of the layers that can "
            f"be factorized, {least:,} are left at least"
        )
    low, high = LOWEST, HIGHEST
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        found = _at_price(forms, 10.0**middle, whole, params=params)
        low, high = (low, middle) if _total(found, params=params) <= limit else (middle, high)
    return _at_price(forms, 10.0**high, whole, params=params)


def _at_price(
    forms: Mapping[Site, Sequence[Form]], price: float, whole: int, *, params: bool
) -> Choice:
    chosen: Choice = {}
    for site, known in forms.items():
        own = price * (site.params if params else site.macs) / whole
        best: Form | None = None
        for form in known:
            cost = form.error + price * _cost(form, params=params) / whole
            if cost < own:
                best, own = form, cost
        chosen[site] = best
    return chosen


def _total(chosen: Choice, *, params: bool) -> int:
    return sum(
        _cost(site if form is None else form, params=params) for site, form in chosen.items()
    )


def _cost(one: Form | Site, *, params: bool) -> int:
    return one.params if params else one.macs
