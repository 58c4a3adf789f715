"""From ids to groups: classes of ids that lie in the same way along the same axes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxcomp.channels.groups import Channels, Group, Part, Port
from onnxcomp.channels.ids import SHIFTED, SUMMED, Ids, PortMark
from onnxcomp.graph import label

Place = tuple[ir.Value, int]


@dataclass(frozen=True)
class _Line:
    """An axis of a value with the root of each of its ids."""

    value: ir.Value
    axis: int
    roots: NDArray[np.intp]


def group_channels(ids: Ids) -> Channels:
    """Return the groups of a model's channels, and why the other weights' channels must stay."""
    lines = [
        _Line(value, axis, ids.roots(found))
        for value, axes in ids.axes.items()
        for axis, found in enumerate(axes)
        if found is not None
    ]
    groups: list[Group] = []
    reasons: dict[int, str] = {}  # by root
    for members, classes in _by_pattern(ids, lines):
        group = _group(ids, [lines[number] for number in members], classes)
        reason = _unfit(ids, group, classes)
        if reason is None:
            groups.append(group)
        else:
            reasons.update(dict.fromkeys(classes.tolist(), reason))
    return Channels(tuple(groups), _pinned(ids, groups, reasons))


def _by_pattern(ids: Ids, lines: list[_Line]) -> Iterator[tuple[list[int], NDArray[np.intp]]]:
    """Yield the numbers of the lines that classes share, and the classes, in graph order."""
    roots, numbers, widths = [], [], []
    for number, line in enumerate(lines):
        free = line.roots[ids.pinned_by(line.roots) == 0]
        found, counts = np.unique(free, return_counts=True)
        roots.append(found)
        numbers.append(np.full(len(found), number))
        widths.append(counts)
    if not roots:
        return
    every = np.concatenate(roots)
    order = np.argsort(every, kind="stable")  # the lines of a class stay in order
    root = every[order]
    rows = np.stack([np.concatenate(numbers)[order], np.concatenate(widths)[order]], axis=1)
    starts = np.flatnonzero(np.diff(root, prepend=-1))
    patterns: dict[bytes, list[int]] = {}
    if not len(root):
        return
    for start, end in zip(starts, [*starts[1:], len(root)], strict=True):
        patterns.setdefault(rows[start:end].tobytes(), []).append(int(root[start]))
    for pattern, classes in patterns.items():
        members = np.frombuffer(pattern, rows.dtype).reshape(-1, 2)[:, 0]
        yield members.tolist(), np.array(classes)


def _group(ids: Ids, lines: list[_Line], classes: NDArray[np.intp]) -> Group:
    first = lines[0].roots
    inside = first[np.isin(first, classes)]
    _, places = np.unique(inside, return_index=True)
    order = inside[np.sort(places)]  # classes in the order in which the first axis has them
    parts = tuple(Part(line.value, line.axis, _places(line.roots, order)) for line in lines)
    by_place = {(part.value, part.axis): part for part in parts}
    ports: dict[str, list[Port]] = {"maker": [], "reader": [], "depthwise": []}
    for mark in ids.marks:
        part = by_place.get((mark.value, mark.axis))
        if part is not None:
            ports[mark.role].append(Port(mark.node, part))
    makers, readers = tuple(ports["maker"]), tuple(ports["reader"])
    name = (
        label((makers or readers or tuple(ports["depthwise"]))[0].node)
        if any(ports.values())
        else ""
    )
    return Group(name, len(classes), parts, makers, readers, tuple(ports["depthwise"]))


def _places(roots: NDArray[np.intp], classes: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the indices along an axis that each class owns, [classes, width]."""
    rank = {int(root): number for number, root in enumerate(classes)}
    mine = np.flatnonzero(np.isin(roots, classes))
    numbers = np.array([rank[int(root)] for root in roots[mine]])
    return mine[np.argsort(numbers, kind="stable")].reshape(len(classes), -1)


def _unfit(ids: Ids, group: Group, classes: NDArray[np.intp]) -> str | None:
    """Return why the channels of a would-be group must stay, or None."""
    if group.channels < 2:
        return "all of its channels go together"
    if not group.makers:
        return "no weight makes the channels"
    if not group.readers:
        return "no weight reads the channels"
    if (ids.notes(classes) & (SUMMED | SHIFTED) == SUMMED | SHIFTED).any():
        return "a product of two computed values sums over them after what makes no 0 of 0"
    return None


def _pinned(ids: Ids, groups: list[Group], reasons: Mapping[int, str]) -> dict[ir.Node, str]:
    """Return a reason for each node that makes channels of which none is in a group."""
    found: dict[ir.Node, str] = {}
    grouped = {(part.value, part.axis) for group in groups for part in group.parts}
    for mark in ids.marks:
        if mark.role != "maker" or (mark.value, mark.axis) in grouped or mark.node in found:
            continue
        found[mark.node] = _reason(ids, mark, reasons)
    return found


def _reason(ids: Ids, mark: PortMark, reasons: Mapping[int, str]) -> str:
    axis = ids.of(mark.value)[mark.axis]
    if axis is None:
        return "it makes a single channel"
    codes = ids.pinned_by(axis)
    if codes.any():
        node, reason = ids.reasons[int(codes[codes > 0].min()) - 1]
        named = node is None or reason.startswith(node.op_type)
        return reason if named or node is None else f"{node.op_type} '{label(node)}': {reason}"
    return next((reasons[int(root)] for root in ids.roots(axis) if int(root) in reasons), "")
