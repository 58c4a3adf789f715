"""Findings about models that are not made for inference, or not for everywhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import onnx_ir as ir

from onnxcomp.graph import (
    KNOWN_DOMAINS,
    STANDARD_DOMAINS,
    all_nodes,
    dropout_is_inference,
    is_op,
    is_random,
)
from onnxcomp.lint.finding import Finding, Subject, labels, operators, trains


def training_mode(subject: Subject) -> Iterator[Finding]:
    """Yield nodes that train: their answers are not those of inference."""
    nodes = [
        node
        for node in all_nodes(subject.model)
        if (is_op(node, "Dropout") and not dropout_is_inference(node))
        or (is_op(node, "BatchNormalization") and trains(node))
    ]
    if nodes:
        yield Finding(
            "training-mode",
            labels(nodes),
            f"{operators(nodes)} in training mode: the answers depend on the batch or on chance",
            "export in inference mode (PyTorch: model.eval())",
        )


def random_nodes(subject: Subject) -> Iterator[Finding]:
    """Yield nodes that draw numbers."""
    nodes = [
        node
        for node in all_nodes(subject.model)
        if is_random(node) and not is_op(node, "Dropout") and not _seeded(node)
    ]
    if nodes:
        yield Finding(
            "random-nodes",
            labels(nodes),
            f"{operators(nodes)} without a seed: two runs differ, so answers cannot be compared",
            "make the noise an input, or set the attribute seed",
        )


def _seeded(node: ir.Node) -> bool:
    return "seed" in node.attributes


def foreign_domains(subject: Subject) -> Iterator[Finding]:
    """Yield operators that are not standard."""
    defined = {identifier[:2] for identifier in subject.model.functions}
    by_domain: dict[str, list[ir.Node]] = defaultdict(list)
    for node in all_nodes(subject.model):
        if node.domain not in STANDARD_DOMAINS and (node.domain, node.op_type) not in defined:
            by_domain[node.domain].append(node)
    by_domain.pop("ai.onnx.ml", None)
    for domain, nodes in sorted(by_domain.items()):
        if domain in KNOWN_DOMAINS:
            message = f"{operators(nodes)} of {domain}, for ONNX Runtime only; left as they are"
            advice = "to run it elsewhere, export without ONNX Runtime's own fusions"
        else:
            message = f"{operators(nodes)} of {domain}, which is unknown here; left as they are"
            advice = "where ONNX Runtime lacks them, `optimize --no-verify` works unchecked"
        yield Finding("foreign-domain", labels(nodes), message, advice)
