"""The machines that a model can be for, as facts about their kernels."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from pathlib import Path

from onnxcomp.errors import UsageError


@dataclass(frozen=True)
class Target:
    """Facts that decide the form of an int8 model, and the widths of layers that run well.

    `channel_block` is how many channels ONNX Runtime's convolutions compute at once, as many floats
    as fit a register: other counts cost as much as the next multiple. `signed` activations are
    int8, else uint8. Where it `saturates`, pairs of products are added in 16 bits, so that large
    weights side by side overflow. `explicit` is TensorRT's form: symmetric scales, float weights
    behind QuantizeLinear and DequantizeLinear, float biases, no QuantizeLinear behind weighted ops.
    Where there is `has_nbits`, ONNX Runtime has kernels for products with weights of 4 bits.
    """

    name: str
    channel_block: int
    signed: bool = False
    saturates: bool = False
    explicit: bool = False
    has_nbits: bool = False

    @property
    def weight_max(self) -> int:
        """The largest magnitude of a quantized weight whose neighbours are not known.

        Pairs of u8 x s8 products cannot overflow with 7 bits: 255 * 64 * 2 < 2^15.
        """
        return 64 if self.saturates else 127


TARGETS = {
    target.name: target
    for target in (
        Target("x86-vnni", 16, has_nbits=True),  # x86 with AVX-VNNI or AVX512-VNNI
        Target("x86", 8, saturates=True, has_nbits=True),  # x86 without: products by vpmaddubsw
        Target("arm64", 8, signed=True, has_nbits=True),  # 64-bit Arm
        Target("tensorrt", 16, signed=True, explicit=True),  # NVIDIA GPUs by TensorRT
        Target("portable", 16, saturates=True),  # any CPU: right everywhere
    )
}
NAMES = ("auto", *TARGETS)


def find_target(name: str) -> Target:
    """Return a target by name; `auto` is this machine's."""
    if name == "auto":
        found = TARGETS[detect()]
        return replace(found, channel_block=16) if "avx512f" in _cpu_flags() else found
    if name not in TARGETS:
        raise UsageError(f"there is no target {name!r}; choose from {', '.join(NAMES)}")
    return TARGETS[name]


def detect() -> str:
    """Name the target that this machine is."""
    machine = platform.machine().lower()
    if machine in ("arm64", "aarch64"):
        return "arm64"
    if machine not in ("x86_64", "amd64", "i386", "i686"):
        return "portable"
    flags = _cpu_flags()
    return "x86-vnni" if flags & {"avx512_vnni", "avx_vnni", "avx512vnni"} else "x86"


def is_told_by_the_cpu() -> bool:
    """Say whether the block of channels of this machine is known without a measurement."""
    return detect() == "arm64" or bool(_cpu_flags())


def _cpu_flags() -> set[str]:
    """Read the CPU's flags where the system tells them (Linux); elsewhere know of none."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return set()
    return next(
        (set(line.split(":", 1)[1].split()) for line in text.splitlines() if line[:5] == "flags"),
        set(),
    )
