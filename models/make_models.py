"""Train, export and check every model of this folder; see README.md.

    python models/make_models.py                  # writes into models/
    python models/make_models.py FOLDER           # writes there

Needs torch, scikit-learn and onnxruntime. Everything is seeded and runs on one thread.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import architectures
import eval_digits
import eval_scans
import handmade
import numpy as np
import onnx
import onnxruntime
import torch
from scans import CLASSES, SIDE, make_scans
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

Feeds = dict[str, np.ndarray[Any, Any]]
Loss = Callable[[Tensor, Tensor], Tensor]

TRAINED_ON = 1000
BATCH = 32
SCANS, HELD_SCANS = 4800, 600
BATCH_AXES = {"image": {0: "N"}, "logits": {0: "N"}}
# Two runs of ONNX Runtime, rewrites on and off, differ by rounding only.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Digits:
    """Images [N, 1, 8, 8] in 0..1 and labels, those to train on and those held out."""

    images: Tensor
    labels: Tensor
    held_images: Tensor
    held_labels: Tensor


def load() -> Digits:
    """Shuffle scikit-learn's digits and split them."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images = torch.tensor(data.images[order, None] / 16, dtype=torch.float32)
    labels = torch.tensor(data.target[order], dtype=torch.int64)
    cut = TRAINED_ON
    return Digits(images[:cut], labels[:cut], images[cut:], labels[cut:])


def quads(images: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Return noisy 32x32 pages of four enlarged digits, and which pixels are ink."""
    big = images[: len(images) // 4 * 4].repeat_interleave(2, 2).repeat_interleave(2, 3)
    pages = big.view(-1, 2, 2, 16, 16).permute(0, 1, 3, 2, 4).reshape(-1, 1, 32, 32)
    noise = torch.randn(pages.shape, generator=torch.Generator().manual_seed(seed))
    noisy = (0.7 * pages + 0.2 + 0.1 * noise).clamp(0, 1)
    return (noisy * 255).round() / 255, (pages > 0.5).float()


def shifted(images: Tensor) -> Tensor:
    """Move a batch by up to one pixel each way."""
    down, right = (int(step) for step in torch.randint(-1, 2, (2,)))
    padded = functional.pad(images, (1, 1, 1, 1))
    return padded[:, :, 1 + down : 9 + down, 1 + right : 9 + right]


def mirrored(images: Tensor) -> Tensor:
    """Swap left and right in a batch, or not."""
    return images.flip(3) if torch.rand(()) < 0.5 else images


def classify(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of a classifier."""
    return functional.cross_entropy(logits, labels, label_smoothing=0.05)


def fit(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    loss: Loss = classify,
    augment: Callable[[Tensor], Tensor] = shifted,
    epochs: int = 40,
) -> nn.Module:
    """Train with Adam and one cycle of the learning rate."""
    steps = epochs * (len(images) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(images))
        for start in range(0, len(images) - BATCH + 1, BATCH):
            batch = order[start : start + BATCH]
            optimizer.zero_grad()
            torch.autograd.backward(loss(model(augment(images[batch])), targets[batch]))
            optimizer.step()
            schedule.step()
    return model


def export(
    model: nn.Module,
    path: Path,
    inputs: Mapping[str, Tensor],
    outputs: list[str],
    axes: Mapping[str, Mapping[int, str]],
    *,
    opset: int,
    fold: bool = False,
) -> None:
    """Write an ONNX file; without `fold` BatchNormalization stays a node of its own."""
    torch.onnx.export(
        model.eval(),
        tuple(inputs.values()),
        str(path),
        dynamo=False,
        opset_version=opset,
        do_constant_folding=fold,
        input_names=list(inputs),
        output_names=outputs,
        dynamic_axes={name: dict(dims) for name, dims in axes.items()},
    )


def make_digits(folder: Path, digits: Digits) -> None:
    """Train and write the four classifiers, and the held-out samples."""
    np.savez_compressed(
        folder / "digits.npz", image=digits.held_images.numpy(), labels=digits.held_labels.numpy()
    )
    kinds: dict[str, tuple[Callable[[], nn.Module], int]] = {
        "cnn": (architectures.cnn, 13),
        "mlp": (architectures.mlp, 11),
        "resnet": (architectures.resnet, 17),
        "mobile": (architectures.mobile, 13),
    }
    for seed, (kind, (build, opset)) in enumerate(kinds.items(), 1):
        torch.manual_seed(seed)
        model = fit(build(), digits.images, digits.labels)
        path = folder / f"digits_{kind}.onnx"
        image = {"image": digits.held_images[:2]}
        export(model, path, image, ["logits"], BATCH_AXES, opset=opset)


def make_unet(folder: Path, digits: Digits) -> None:
    """Train a U-Net briefly to find ink on noisy pages."""
    torch.manual_seed(5)
    pages, ink = quads(digits.images, seed=5)
    model = fit(
        architectures.UNet(),
        pages,
        ink,
        loss=functional.binary_cross_entropy,
        augment=nn.Identity(),
        epochs=8,
    )
    held, held_ink = quads(digits.held_images[:64], seed=6)
    np.savez_compressed(folder / "unet.npz", image=held.numpy())
    axes = {name: {0: "N", 2: "H", 3: "W"} for name in ("image", "ink")}
    export(model, folder / "unet.onnx", {"image": held[:2]}, ["ink"], axes, opset=18)
    right = ((model(held) > 0.5) == (held_ink > 0.5)).float().mean()
    print(f"unet: {float(right):.2%} of pixels right, {float(1 - held_ink.mean()):.2%} are paper")


def make_scans_vgg(folder: Path) -> None:
    """Train and write the VGG that tells scans apart, and scans held out."""
    images, labels = make_scans(SCANS, seed=8)
    held, held_labels = make_scans(HELD_SCANS, seed=9)
    np.savez_compressed(folder / "scans.npz", image=held, labels=held_labels)
    torch.manual_seed(8)
    model = fit(
        architectures.vgg(SIDE, CLASSES),
        torch.tensor(images),
        torch.tensor(labels),
        augment=mirrored,
        epochs=12,
    )
    image = {"image": torch.tensor(held[:2])}
    export(model, folder / "scans_vgg.onnx", image, ["logits"], BATCH_AXES, opset=16, fold=True)


def make_untrained(folder: Path) -> None:
    """Write the encoder, its sample ids, and the LSTM, with seeded weights."""
    rng = np.random.default_rng(6)
    lengths = rng.integers(8, 33, (16, 1))
    mask = (np.arange(32) < lengths).astype(np.int64)
    ids = rng.integers(1, architectures.VOCABULARY, mask.shape) * mask
    np.savez_compressed(folder / "encoder.npz", input_ids=ids, attention_mask=mask)
    tokens = {"input_ids": torch.tensor(ids[:2]), "attention_mask": torch.tensor(mask[:2])}
    axes = {name: {0: "N", 1: "S"} for name in (*tokens, "states")} | {"embedding": {0: "N"}}
    torch.manual_seed(6)
    encoder = architectures.Encoder()
    path = folder / "encoder.onnx"
    export(encoder, path, tokens, ["states", "embedding"], axes, opset=13, fold=True)

    torch.manual_seed(7)
    frames = {"frames": torch.randn(12, 2, 32)}
    axes = {"frames": {0: "S", 1: "N"}, "logits": {0: "N"}}
    path = folder / "lstm.onnx"
    export(architectures.Recurrent(), path, frames, ["logits"], axes, opset=14, fold=True)


def trial_feeds(name: str, size: int) -> Feeds:
    """Return feeds for one model with a batch, and every other open dim, that depends on `size`."""
    rng = np.random.default_rng(size)
    if name == "encoder":
        ids = rng.integers(1, architectures.VOCABULARY, (size, 8 + size))
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    shapes = {
        "unet": ("image", (size, 1, 8 * size, 16 + 4 * size)),
        "scans_vgg": ("image", (size, 1, SIDE, SIDE)),
        "lstm": ("frames", (5 + size, size, 32)),
        "control_flow": ("x", (size, 32)),
        "dynamic_shapes": ("x", (size, 4 + size, 32)),
    }
    key, shape = shapes.get(name, ("image", (size, 1, 8, 8)))
    return {key: rng.standard_normal(shape).astype(np.float32)}


def session(path: Path, *, optimize: bool) -> onnxruntime.InferenceSession:
    """Open a model with all of ONNX Runtime's rewrites, or none."""
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def check(path: Path) -> str:
    """Check a written model, run it at three batch sizes, and return its row."""
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path)
    plain, optimized = session(path, optimize=False), session(path, optimize=True)
    for size in (1, 2, 5):
        feeds = trial_feeds(path.stem, size)
        for left, right in zip(plain.run(None, feeds), optimized.run(None, feeds), strict=True):
            np.testing.assert_allclose(left, right, rtol=TOLERANCE, atol=TOLERANCE)
    score = ""
    metrics = {"digits": eval_digits.accuracy, "scans": eval_scans.accuracy}
    accuracy = metrics.get(path.stem.partition("_")[0])
    if accuracy is not None:
        score = f"{accuracy(lambda feeds: list(plain.run(None, feeds))):.2%}"
    normalizations = sum(node.op_type == "BatchNormalization" for node in model.graph.node)
    opset = model.opset_import[0].version
    nodes = len(model.graph.node)
    size_kb = path.stat().st_size / 1000
    return f"| {path.name} | {opset} | {size_kb:.0f} | {nodes} | {normalizations} | {score} |"


def main() -> None:
    """Make everything and print a row for each model."""
    warnings.filterwarnings("ignore")  # the exporter's, on its own deprecation and on tracing
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent).resolve()
    digits = load()
    make_untrained(folder)
    onnx.save(handmade.control_flow(), folder / "control_flow.onnx")
    onnx.save(handmade.dynamic_shapes(), folder / "dynamic_shapes.onnx")
    make_unet(folder, digits)
    make_digits(folder, digits)
    make_scans_vgg(folder)
    print("| file | opset | kB | nodes | BN | accuracy |\n|---|---|---|---|---|---|")
    for path in sorted(folder.glob("*.onnx")):
        print(check(path))


if __name__ == "__main__":
    main()
