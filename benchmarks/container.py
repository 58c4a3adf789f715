"""Packed sizes of models, as they are and pruned and clustered, as a Markdown table.

    python benchmarks/container.py                # the models of this repository
    python benchmarks/container.py FILE.onnx ...  # your own

Every weight of two dims and more loses its smallest 80 %, and the others take 15 values by k-means:
a share of zeros and codes as Deep Compression has them, for size alone, without a look at answers.
"""

from __future__ import annotations

import lzma
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

import onnxcomp

MODELS = Path(__file__).resolve().parent.parent / "models"
HEAD = (
    "| model | bytes | zlib -9 | xz -6 | .onnxz | bits | entropy | Huffman | pack s | load s |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)
ZEROS, VALUES, ROUNDS = 0.8, 15, 20
LEAST = 1024


def clustered(weight: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return a weight of zeros and few other values: magnitude pruning, then Lloyd's k-means."""
    flat = weight.ravel().copy()
    flat[np.abs(flat) <= np.quantile(np.abs(flat), ZEROS)] = 0
    kept = np.sort(flat[flat != 0])
    if not len(kept):
        return weight
    centres = np.linspace(kept[0], kept[-1], VALUES)
    for _ in range(ROUNDS):
        groups = np.split(kept, np.searchsorted(kept, (centres[1:] + centres[:-1]) / 2))
        pairs = zip(groups, centres, strict=True)
        centres = np.array([group.mean() if len(group) else old for group, old in pairs])
    codes = np.searchsorted((centres[1:] + centres[:-1]) / 2, flat[flat != 0])
    flat[flat != 0] = centres.astype(np.float32)[codes]
    return flat.reshape(weight.shape)


def make_clustered(source: Path, out: Path) -> None:
    """Write a model with its float weights pruned and clustered."""
    model = onnx.load(source)
    for tensor in model.graph.initializer:
        weight = onnx.numpy_helper.to_array(tensor)
        if weight.dtype == np.float32 and weight.ndim > 1 and weight.size >= LEAST:
            tensor.CopyFrom(onnx.numpy_helper.from_array(clustered(weight), tensor.name))
    onnx.save(model, out)


def row(path: Path, name: str, folder: Path) -> str:
    """Pack and unpack one model and return its row; sizes are shares of the file."""
    out, data = folder / "packed.onnxz", path.read_bytes()
    found = onnxcomp.pack(path, out)
    started = time.perf_counter()
    if onnxcomp.load(out) != data:
        raise SystemExit(f"{path} did not come back")
    seconds = time.perf_counter() - started
    values = sum(tensor.values for tensor in found.tensors)
    bits = 8 * sum(tensor.after for tensor in found.tensors) / values
    entropy = sum(tensor.entropy_bits for tensor in found.tensors) / values
    huffman = 8 * sum(tensor.huffman_bytes for tensor in found.tensors) / values
    others = [len(zlib.compress(data, 9)), len(lzma.compress(data, preset=6))]
    shares = [f"{size / found.before:.4f}" for size in (*others, found.after)]
    figures = [f"{bits:.3f}", f"{entropy:.3f}", f"{huffman:.3f}"]
    times = [f"{found.seconds:.1f}", f"{seconds:.2f}"]
    return f"| {' | '.join([name, str(found.before), *shares, *figures, *times])} |"


def main() -> None:
    """Print the table."""
    paths = [Path(name) for name in sys.argv[1:]] or sorted(MODELS.glob("*.onnx"))
    print(HEAD)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in paths:
            print(row(path, path.stem, folder), flush=True)
            pruned = folder / "pruned.onnx"
            make_clustered(path, pruned)
            print(row(pruned, f"{path.stem}, 80 % zeros, 16 values", folder), flush=True)


if __name__ == "__main__":
    main()
