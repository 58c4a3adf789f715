"""What one walk over a model learns: the shape of each value, and the content of small integers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from onnxcomp.graph import Array, array, tensor
from onnxcomp.symbolic.dims import UNKNOWN, Dim, is_known_size, is_simple, named

# Shape arithmetic works on vectors of a few elements; larger tensors are data.
MAX_CONTENT = 64
INTEGERS = frozenset({ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL})

# Where a value keeps what it declared before inference wrote its shape.
DECLARED = "onnxcomp.declared"

Shape = tuple["int | Dim", ...]


def declared_shape(value: ir.Value) -> ir.Shape | None:
    """Return the shape that the model declares, also where inference wrote another."""
    return value.meta.data.get(DECLARED, value.shape)


@dataclass
class Facts:
    """Shapes, contents (arrays of ints, bools and `Dim`s) and types, by value.

    `given` are shapes of inputs, by name, that count instead of the declared ones.
    """

    given: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    shapes: dict[ir.Value, Shape] = field(default_factory=dict)
    contents: dict[ir.Value, Array] = field(default_factory=dict)
    kinds: dict[ir.Value, ir.DataType] = field(default_factory=dict)
    is_trial: bool = False
    _fresh: Iterator[int] = field(default_factory=itertools.count)

    def copy(self) -> Facts:
        """Return facts to try an assumption on."""
        return replace(
            self,
            shapes=dict(self.shapes),
            contents=dict(self.contents),
            kinds=dict(self.kinds),
            is_trial=True,
        )

    def new_dim(self) -> Dim:
        """Return a dim that equals no other."""
        return named(f"?{next(self._fresh)}")

    def new_number(self) -> Dim:
        """Return an integer that may be anything."""
        return named(f"{UNKNOWN}{next(self._fresh)}")

    def shape(self, value: ir.Value | None) -> Shape | None:
        """Return the shape of a value, or None where its rank is not known."""
        if value is None:
            return None
        if value in self.shapes:
            return self.shapes[value]
        known = tensor(value)
        return None if known is None else tuple(known.shape.numpy())

    def content(self, value: ir.Value | None) -> Array | None:
        """Return the elements of a small integer tensor, or None."""
        if value is None:
            return None
        if value in self.contents:
            return self.contents[value]
        known = tensor(value)
        if known is None or known.dtype not in INTEGERS or known.size > MAX_CONTENT:
            return None
        data = array(value)
        if data is not None:
            self.contents[value] = data.astype(object)
        return self.contents.get(value)

    def kind(self, value: ir.Value | None) -> ir.DataType | None:
        """Return the type of a value, or None where it is not known."""
        if value is None:
            return None
        known = value.dtype or self.kinds.get(value)
        constant = tensor(value) if known is None else None
        return known if constant is None else constant.dtype

    def declare(self, value: ir.Value, *, trusted: bool = False) -> None:
        """Note the declared shape of a value, with a new name for each dim that is not a number.

        Only the names that the inputs declare are `trusted`: exporters label inner values wrongly.
        """
        given = self.given.get(value.name or "") if trusted else None
        if given is not None:
            self.shapes[value] = given
            return
        stated = declared_shape(value)
        if stated is None:
            return
        dims = stated.dims
        names = [dim.value if trusted and isinstance(dim, ir.SymbolicDim) else None for dim in dims]
        self.shapes[value] = tuple(
            dim if isinstance(dim, int) and dim >= 0
            else named(name) if name and name != "?"
            else self.new_dim()
            for dim, name in zip(dims, names, strict=True)
        )  # fmt: skip

    def learn(self, value: ir.Value, found: Sequence[int | Dim | None] | None) -> None:
        """Note a shape that a rule found; numbers that the model declares stand."""
        declared = declared_shape(value)
        if self.is_trial and found is not None:
            declared = None  # it was stated for what is not assumed now
        if found is None or (declared is not None and len(declared) != len(found)):
            self.declare(value)
            return
        if declared is None and all(is_known_size(dim) for dim in found):
            self.shapes[value] = tuple(found)  # type: ignore[arg-type]
            return
        dims: list[int | Dim] = []
        for axis, dim in enumerate(found):
            stated = declared[axis] if declared is not None else None
            if isinstance(stated, int) and stated >= 0:
                dims.append(stated)
            elif dim is None or not is_known_size(dim):
                dims.append(self.new_dim())
            else:
                dims.append(dim)
        self.shapes[value] = tuple(dims)

    def keep(self, value: ir.Value, content: Array | None) -> None:
        """Note what a value holds; elements that are too long to reckon with become unknown."""
        if content is None or content.size > MAX_CONTENT:
            return
        kept = np.empty(content.shape, dtype=object)
        for index, item in np.ndenumerate(content):
            kept[index] = item if is_simple(item) else self.new_number()
        self.contents[value] = kept
