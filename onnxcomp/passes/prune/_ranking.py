"""The order in which the channels of each group go, by one criterion."""

from __future__ import annotations

import zlib
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from onnxcomp.calibration.data_free import known_moments
from onnxcomp.calibration.moments import Moments
from onnxcomp.calibration.samples import Samples
from onnxcomp.channels.groups import Group
from onnxcomp.errors import RecipeError, UsageError
from onnxcomp.graph import Array
from onnxcomp.passes.prune._allocation import Ranking
from onnxcomp.passes.prune._compensation import Removal
from onnxcomp.passes.prune._importance import (
    BY_ACTIVATIONS,
    BY_WEIGHTS,
    by_product,
    find_scales,
    rank_by_scores,
)
from onnxcomp.passes.prune._levels import Levels
from onnxcomp.passes.prune._merging import Merges, rank_by_redundancy
from onnxcomp.passes.prune._obs import rank_by_obs
from onnxcomp.passes.prune._observed import Observed, observe
from onnxcomp.passes.prune._sensitivity import ERROR, Probe

CRITERIA = ("obs", *BY_WEIGHTS, *BY_ACTIVATIONS, "redundancy", "random")


@dataclass(frozen=True, eq=False)
class Ranked:
    """What a criterion says of a group; `ranking` is None where it says nothing.

    `means` [channels, width] of the values that are read, as far as they are known.
    """

    ranking: Ranking | None
    means: Mapping[ir.Value, Array] = field(default_factory=dict)
    merges: Merges | None = None


def check_criterion(criterion: str, samples: Samples) -> None:
    """Raise where there is no such criterion, or where it needs samples and these are random."""
    if criterion not in CRITERIA:
        known = ", ".join(CRITERIA)
        raise RecipeError(f"prune-channels has no criterion {criterion!r}; choose from {known}")
    if samples.synthetic and criterion in BY_ACTIVATIONS:
        raise UsageError(
            f"prune-channels: criterion {criterion!r} needs real samples (--calib DATA); "
            "by weights alone: product"
        )


def rank(
    model: ir.Model,
    unfused: ir.Model,
    groups: Sequence[Group],
    levels: Sequence[Levels],
    samples: Samples,
    criterion: str,
    seed: int,
    *,
    compare: bool,
) -> list[Ranked]:
    """Return what a criterion says of each group; one that cannot shrink is not looked at.

    With `compare` the errors of groups are made comparable where they can be: "obs" weighs them
    with how much the model's outputs feel an error there.
    """
    scales = find_scales(model, unfused)
    able = [index for index, each in enumerate(levels) if each.counts]
    found: list[Ranked] = [Ranked(None)] * len(groups)
    if samples.synthetic:
        moments = known_moments(unfused, model)
        for index in able:
            ranking, merges = _by_weights(groups[index], scales, criterion, seed)
            found[index] = Ranked(ranking, _known_means(groups[index], moments), merges)
        return found
    probe = Probe(model, samples, len(able)) if criterion == "obs" and compare and able else None
    wanted = {"problems": criterion == "obs", "rows": criterion in BY_ACTIVATIONS}
    seen = observe(model, [groups[index] for index in able], samples, **wanted)
    for place, observed in seen:
        index = able[place]
        means = observed.means
        if criterion == "obs":
            fixed = _fixed(groups[index], scales, observed)
            ranking = rank_by_obs(observed.problems, fixed, levels[index].counts[-1])
            if probe is not None:
                ranking = _weighed(groups[index], ranking, observed, fixed, probe)
            found[index] = Ranked(ranking, means)
        elif criterion in BY_ACTIVATIONS:
            found[index] = Ranked(_by_activations(observed, criterion), means)
        else:
            ranking, merges = _by_weights(groups[index], scales, criterion, seed)
            found[index] = Ranked(ranking, means, merges)
    return found


def _by_weights(
    group: Group, scales: Mapping[str, Array], criterion: str, seed: int
) -> tuple[Ranking | None, Merges | None]:
    if criterion == "redundancy":
        return rank_by_redundancy(group, scales)
    if criterion == "random":
        rng = np.random.default_rng((seed, zlib.crc32(group.name.encode())))
        order = rng.permutation(group.channels)
        return Ranking(order, np.arange(group.channels + 1) / group.channels), None
    scores = BY_WEIGHTS["product" if criterion == "obs" else criterion](group, scales)
    return (None if scores is None else rank_by_scores(scores)), None


def _by_activations(observed: Observed, criterion: str) -> Ranking | None:
    if not observed.rows:
        return None
    scores = [BY_ACTIVATIONS[criterion](rows) for rows in observed.rows]
    return rank_by_scores(np.asarray(sum(scores)))


def _fixed(group: Group, scales: Mapping[str, Array], observed: Observed) -> Array:
    """Return what readers lose, by weights, where they are no products of what was seen."""
    if not observed.unseen:
        return np.zeros(group.channels)
    power = np.square(by_product(replace(group, readers=observed.unseen), scales))
    return np.asarray(power / max(float(power.sum()), 1e-30))


def _weighed(
    group: Group, ranking: Ranking, observed: Observed, fixed: Array, probe: Probe
) -> Ranking:
    """Return a ranking whose errors are those of the model's outputs."""

    def lost(count: int) -> float:
        gone = ranking.order[:count]
        return float(fixed[gone].sum()) + sum(each.lost(gone) for each in observed.problems)

    count = 1 + bisect_left(range(1, group.channels - 1), ERROR, key=lost)
    removal = Removal(group, ranking.kept(group.channels - count), ranking, observed.means)
    return replace(ranking, errors=ranking.errors * probe.sensitivity(removal, lost(count)))


def _known_means(group: Group, moments: Mapping[str, Moments]) -> dict[ir.Value, Array]:
    """Return the means that follow from batch normalization, of what the readers read."""
    parts = {part.value: part for part in group.parts}
    read = {value for port in group.readers for value in port.node.inputs[:2] if value in parts}
    means = {}
    for value in read:
        found = moments.get(value.name or "")
        places = parts[value].places
        if found is not None and len(found.mean) > places.max():
            means[value] = found.mean[places]
    return means
