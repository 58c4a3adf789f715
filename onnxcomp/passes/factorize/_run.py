"""Factorizes layers: forms are chosen within a budget, written, and fitted to the original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxcomp.calibration.samples import Samples
from onnxcomp.cost import parameters
from onnxcomp.errors import RecipeError
from onnxcomp.graph import is_op, label
from onnxcomp.linear.layers import decibels
from onnxcomp.linear.reconstruct import Fit, reconstruct
from onnxcomp.passes.factorize._allocation import Choice, by_cost, by_energy
from onnxcomp.passes.factorize._budget import Budget
from onnxcomp.passes.factorize._embeddings import rewrite_gathers
from onnxcomp.passes.factorize._forms import Form, Site, cheaper
from onnxcomp.passes.factorize._rewrite import rewrite
from onnxcomp.passes.factorize._timing import Clock
from onnxcomp.registry import leave, measured, settle
from onnxcomp.targets import Target, find_target

# Forms that have two ranks; the others have one.
TWO = "tucker"


@dataclass(frozen=True)
class Asked:
    """What a pass is to do, with forms of some kinds; `ranks` repeat what a run came to."""

    name: str
    budget: Budget
    ranks: Mapping[str, object] | None
    smaller: bool
    target: Target
    kinds: tuple[str, ...]

    @property
    def is_timed(self) -> bool:
        """Whether what is not measured to be faster is left: on the target itself, for speed."""
        return not self.smaller and self.target == find_target("auto")

    def concerns(self, node: str) -> bool:
        """Say whether a node may change: all may, but where others are named.

        What is seen of values depends on which are looked at together, to the bit, so that those
        that may not change are looked at too.
        """
        return self.ranks is None or node in self.ranks


def choose(model: ir.Model, sites: Sequence[Site], asked: Asked) -> dict[Site, Form]:
    """Return the form of each layer that gets another one, and note them for the recipe."""
    if asked.ranks is not None:
        chosen = _named(sites, asked.name, asked.ranks)
    else:
        chosen = _searched(model, sites, asked)
        settle("ranks", {site.name: _written(form) for site, form in chosen.items()})
        for option in ("energy", "ratio", "params", "rank"):
            settle(option, None)
    return chosen


def _written(form: Form) -> object:
    """Return a form as a recipe has it: 32, or "spatial 32", or "tucker 16 32"."""
    if form.kind == "pair":
        return form.ranks[0]
    return " ".join([form.kind, *map(str, form.ranks)])


def _named(sites: Sequence[Site], name: str, ranks: Mapping[str, object]) -> dict[Site, Form]:
    known = {site.name: site for site in sites}
    chosen = {}
    for node, text in ranks.items():
        site = known.get(node)
        if site is None:
            raise RecipeError(f"{name}: ranks has {node!r}, which is no layer to be factorized")
        kind, *numbers = ["pair", str(text)] if isinstance(text, int) else str(text).split() or [""]
        try:
            form = site.form_of(kind, tuple(int(number) for number in numbers))
        except ValueError:
            form = None
        if form is None:
            raise RecipeError(f"{name}: ranks gives {node!r} the form {text!r}: it cannot have it")
        chosen[site] = form
    return {site: chosen[site] for site in sites if site in chosen}


def _searched(model: ir.Model, sites: Sequence[Site], asked: Asked) -> dict[Site, Form]:
    clock = Clock()
    forms = {site: _candidates(site, asked) for site in sites}
    slow: set[Site] = set()
    small = {site for site in sites if not forms[site]}
    while True:
        chosen = _within(model, forms, asked)
        kept = {site: form for site, form in chosen.items() if form is not None}
        dropped = [
            site for site, form in kept.items() if asked.is_timed and not clock.passes(site, form)
        ]
        for site in dropped:
            forms[site] = tuple(each for each in forms[site] if not _is_as_slow(each, kept[site]))
            slow.add(site)
        if not dropped:
            break
    for site in sites:
        if site in small:
            leave(site.layers[0].node, "it is too small: no such rank takes less")
        elif site in slow and site not in kept:
            leave(site.layers[0].node, "small layers in its place are not measured to be faster")
        elif site not in kept and asked.budget.kind == "energy":
            energy = f"{asked.budget.amount:.4g}"
            reason = f"no rank that takes less keeps {energy} of its output's energy"
            leave(site.layers[0].node, reason)
    return kept


def _candidates(site: Site, asked: Asked) -> tuple[Form, ...]:
    """Return the forms to choose from: those of the target's ranks, or of the rank asked for."""
    if asked.budget.kind != "rank":
        return site.forms
    rank = int(asked.budget.amount)
    found = [site.form_of(kind, (rank,) * (2 if kind == TWO else 1)) for kind in asked.kinds]
    forms = [form for form in found if form is not None]
    smaller = asked.smaller or not site.macs
    return cheaper(forms, site.macs, site.params, smaller=smaller)


def _within(model: ir.Model, forms: Mapping[Site, Sequence[Form]], asked: Asked) -> Choice:
    budget = asked.budget
    if budget.kind == "rank":
        return {
            site: min(known, key=lambda form: form.error, default=None)
            for site, known in forms.items()
        }
    if budget.kind == "energy":
        return by_energy(forms, budget.amount, smaller=asked.smaller)
    if budget.kind == "params":
        rest = parameters(model) - sum(site.params for site in forms)
        return by_cost(forms, budget.amount - rest, params=True, name=asked.name)
    whole = sum(site.macs for site in forms)
    return by_cost(forms, whole * (1 - budget.amount), params=False, name=asked.name)


def _is_as_slow(form: Form, slow: Form) -> bool:
    return form.kind == slow.kind and form.macs >= slow.macs


def write(
    model: ir.Model,
    original: ir.Model,
    samples: Samples,
    chosen: Mapping[Site, Form],
    opset: int,
    *,
    repair: bool,
) -> int:
    """Write the chosen forms into a model and fit them; return how many layers changed."""
    known = {label(node) for node in original.graph}
    fits = []
    for site, form in chosen.items():
        names = [label(layer.node) for layer in site.layers]
        against = site.against
        if against is not None:
            plain, own = against(form)
            for layer in site.layers if plain != own else ():
                measured(layer.node, decibels(1.0, plain), decibels(1.0, own))
        if is_op(site.layers[0].node, "Gather"):
            rewrite_gathers(model.graph, site.layers, form.build())
            continue
        rewrite(model.graph, site.layers, form.build(), opset)
        if len(site.layers) == 1 and names[0] in known:
            fits.append(Fit(label(site.layers[0].node), teacher=names[0]))
    if repair and fits and not samples.synthetic:
        nodes = {label(node): node for node in model.graph}
        for each in reconstruct(model, original, fits, samples):
            measured(nodes[each.node], decibels(1.0, each.before), decibels(1.0, each.after))
    return sum(len(site.layers) for site in chosen)
