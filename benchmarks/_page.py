"""What every comparison's script does around its measuring: talk, versions, pages, the README."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from _peers import Peer

ROOT = Path(__file__).resolve().parent.parent


def say(text: str) -> None:
    """Tell on stderr how it goes."""
    print(text, file=sys.stderr, flush=True)


def installed(peers: Mapping[str, Peer], labels: Iterable[str]) -> list[Peer]:
    """Return the peers that were asked for (all without labels), less those not installed."""
    wanted = list(labels)
    chosen = [peer for label, peer in peers.items() if not wanted or label in wanted]
    for peer in chosen:
        if peer.version is None:
            say(f"{peer.label} is left out: it is not installed")
    return [peer for peer in chosen if peer.version is not None]


def environment(distributions: Iterable[str]) -> list[str]:
    """Return the versions of these and of what all stand on, and the machine, as lines."""
    names = {*distributions, "numpy", "onnx", "onnx-ir", "onnxruntime"}
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in sorted(names))
    return [
        f"Versions: {versions}.",
        f"Machine: {os.cpu_count()} cores of {processor()}, {platform.system()}, Python "
        f"{platform.python_version()}.",
    ]


def processor() -> str:
    """Return the processor's name as far as the system tells it."""
    try:
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def write(name: str, full: str, table: str, root: Path = ROOT) -> None:
    """Write docs/benchmarks/NAME.md, and put the short table between the README's markers."""
    target = root / "docs" / "benchmarks" / f"{name}.md"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(full)
    readme = root / "README.md"
    begin, end = f"<!-- {name}-bench -->\n", f"<!-- /{name}-bench -->"
    before, found, rest = readme.read_text().partition(begin)
    if not found or end not in rest:
        say(f"README.md has no {begin.strip()} ... {end}; only {target.name} was written")
        return
    readme.write_text(f"{before}{begin}\n{table}\n\n{end}{rest.partition(end)[2]}")
