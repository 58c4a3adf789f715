"""A model run piece by piece, all samples side by side, so that what follows sees what changed."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from onnxcomp.cost import one_sample
from onnxcomp.graph import Array, inner_graphs
from onnxcomp.runtime import Feeds, Session

# Bytes that are held; beyond, there are fewer samples from there on, but not fewer than these.
MEMORY = 100_000_000
LEAST = 4


class Pieces:
    """The values of a main graph that later nodes still need, for each of the first samples.

    Those that `held` names stay until they are taken, as often as they are named. `memory` is in
    bytes.
    """

    def __init__(
        self,
        model: ir.Model,
        samples: Iterable[Feeds],
        limit: int,
        *,
        held: Iterable[str] = (),
        memory: int = MEMORY,
    ) -> None:
        self._model = model
        self._nodes = list(model.graph)
        self._places = {node: place for place, node in enumerate(self._nodes)}
        self._last = {name: i for i, node in enumerate(self._nodes) for name in _reads(node)}
        self._makers = {out.name: node for node in self._nodes for out in node.outputs}
        self._held = Counter(held)
        self._memory = memory
        self._done = 0
        fed = [one_sample(model, feeds) for feeds in itertools.islice(samples, limit)]
        self._values: list[dict[str, Array]] = [dict(feeds) for feeds in fed]

    def __len__(self) -> int:
        return len(self._values)

    def is_past(self, node: ir.Node) -> bool:
        """Say whether a node has run already."""
        return self._places[node] < self._done

    def run_to(self, node: ir.Node) -> list[Array]:
        """Run up to a node, from where the last run ended, and return its result by sample.

        The arrays may be changed in place: what comes behind is computed from them.
        """
        name = node.outputs[0].name or ""
        self._advance(self._places[node] + 1, name)
        return [values[name] for values in self._values]

    def before(self, node: ir.Node, names: Sequence[str]) -> list[tuple[Array, ...]]:
        """Run all that stands before a node, and return values that are still needed, by sample."""
        self._advance(self._places[node])
        return [tuple(values[name] for name in names) for values in self._values]

    def take(self, name: str) -> list[Array]:
        """Return a held value by sample, after running up to its node if need be, and let it go."""
        if self._values and name not in self._values[0]:
            self._advance(self._places[self._makers[name]] + 1)
        self._held[name] -= 1
        return [values[name] for values in self._values]

    def _advance(self, stop: int, name: str = "") -> None:
        """Run up to a place, and forget what is not needed behind it, but for the value named."""
        piece = self._nodes[self._done : stop]
        if not piece:
            return
        self._done = stop
        made = [output.name for each in piece for output in each.outputs if output.name]
        kept = [each for each in made if each == name or self._is_needed(each)]
        if not kept:
            return
        first = self._values[0] if self._values else {}
        read = {each for item in piece for each in _reads(item)} & first.keys()
        session = Session(_serialized(self._model, piece, {n: first[n] for n in read}, kept))
        for count, values in enumerate(self._values):
            if count >= LEAST and count * _bytes(self._values[0]) > self._memory:
                del self._values[count:]
                break
            values.update(session.run(values))
            for gone in [each for each in values if not self._is_needed(each)]:
                if gone != name:
                    del values[gone]

    def _is_needed(self, name: str) -> bool:
        return self._held[name] > 0 or self._last.get(name, -1) >= self._done


def _reads(node: ir.Node) -> Iterator[str]:
    """Yield the names of what a node reads, by its subgraphs too."""
    for value in itertools.chain(
        node.inputs, (v for inner in inner_graphs(node) for n in inner for v in n.inputs)
    ):
        if value is not None and value.name:
            yield value.name


def _bytes(values: Mapping[str, Array]) -> int:
    return sum(np.asarray(data).nbytes for data in values.values())


def _serialized(
    model: ir.Model, nodes: Sequence[ir.Node], inputs: dict[str, Array], outputs: Sequence[str]
) -> bytes:
    """Return a model of some nodes of a main graph, with the weights that these read."""
    weights = model.graph.initializers
    read = dict.fromkeys(name for node in nodes for name in _reads(node) if name in weights)
    graph = onnx.GraphProto(name="piece")
    graph.node.extend(ir.to_proto(node) for node in nodes)
    for name in read:
        tensor = weights[name].const_value
        assert tensor is not None
        graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(tensor.numpy()), name))
    for name, data in inputs.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(data.dtype)
        graph.input.append(onnx.helper.make_tensor_value_info(name, kind, None))
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    piece = onnx.ModelProto(ir_version=model.ir_version, graph=graph)
    for domain, version in model.opset_imports.items():
        piece.opset_import.append(onnx.helper.make_opsetid(domain, version))
    piece.functions.extend(ir.to_proto(function) for function in model.functions.values())
    return bytes(piece.SerializeToString())
