"""What the weights of a model take in its file, and once it is loaded."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx_ir as ir

from onnxcomp.runtime import INLINE_LIMIT, Session, weight_bytes


@dataclass(frozen=True)
class Storage:
    """Bytes of constants: `stored` in the file, `loaded` once ONNX Runtime has folded them."""

    stored: int
    loaded: int

    def to_dict(self) -> dict[str, int]:
        """Return the facts as JSON data."""
        return asdict(self)


def storage_of(model: ir.Model) -> Storage | None:
    """Return what a model's constants take; None for one so large that loading it takes long."""
    stored = weight_bytes(model)
    if stored >= INLINE_LIMIT / 4:  # as floats, what is stored in 4 bits may be over 2 GB
        return None
    with tempfile.TemporaryDirectory(prefix="onnxcomp-") as folder:
        path = Path(folder) / "optimized.onnx"
        Session(model, optimize=True, dump=path)
        return Storage(stored, weight_bytes(ir.load(path)))
