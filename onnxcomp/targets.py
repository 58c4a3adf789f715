"""The machines that a model can be for, as facts about their kernels."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from pathlib import Path

from onnxcomp.errors import UsageError


@dataclass(frozen=True)
class Target:
    """Facts that decide the form of an int8 model, and the widths of layers that run well.

    `weight_max` is the largest magnitude of a quantized weight: x86 CPUs without VNNI add pairs
    of u8 x s8 products in 16 bits, which 7-bit weights cannot overflow (255 * 64 * 2 < 2^15).
    `channel_block` is how many channels ONNX Runtime's convolutions compute at once, as many floats
    as fit a register: other counts cost as much as the next multiple.
    """

    name: str
    weight_max: int
    channel_block: int


TARGETS = {
    target.name: target
    for target in (
        Target("x86-vnni", 127, 16),  # x86 with AVX-VNNI or AVX512-VNNI: u8 activations, s8 weights
        Target("x86", 64, 8),  # x86 without VNNI: u8 activations, 7-bit weights against saturation
        Target("arm64", 127, 8),  # 64-bit Arm: u8 activations, s8 weights
        Target("portable", 64, 16),  # any CPU: the 7-bit form, right everywhere
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
