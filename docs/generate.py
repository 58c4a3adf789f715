"""Writes `docs/passes/*.md` from the passes' docstrings and case pages; `--check` only compares."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from onnxcomp.registry import Pass, list_passes

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "passes"


def page(found: Pass) -> str:
    """Return the page of one pass: effect, docstring, options, and its cases as examples."""
    parts = [f"# {found.name}\n", f"*{found.effect.value}*, family {found.family or 'other'}\n"]
    parts.append(f"{found.doc}\n")
    if found.options:
        parts.append("| option | type | default |\n|---|---|---|")
        parts += [f"| `{o.name}` | {o.type.__name__} | `{o.default!r}` |" for o in
                  found.options.values()]  # fmt: skip
        parts.append("")
    cases = ROOT / "tests" / "cases" / f"{found.name}.md"
    if cases.exists():
        examples = re.sub(r"\A# .*\n", "", cases.read_text()).strip()
        parts.append(f"# Cases\n\nOne block: unchanged. Two: before and after.\n\n{examples}\n")
    return "\n".join(parts)


def index(passes: dict[str, Pass]) -> str:
    """Return the table of all passes."""
    rows = [
        f"| [{p.name}]({p.name}.md) | {p.family} | {p.effect.value} | {p.summary} |"
        for p in passes.values()
    ]
    head = ["# Passes\n", "| pass | family | effect | what it does |", "|---|---|---|---|"]
    return "\n".join([*head, *rows]) + "\n"


def main() -> int:
    """Write or compare every page; return the exit code."""
    passes = dict(list_passes())
    wanted = {FOLDER / f"{name}.md": page(found) for name, found in passes.items()}
    wanted[FOLDER / "README.md"] = index(passes)
    present = {path: path.read_text() for path in sorted(FOLDER.glob("*.md"))}
    if "--check" in sys.argv:
        stale = sorted(
            path.name
            for path in wanted.keys() | present.keys()
            if wanted.get(path) != present.get(path)
        )
        if stale:
            sys.stderr.write(f"run `make docs`: out of date: {', '.join(stale)}\n")
        return 1 if stale else 0
    FOLDER.mkdir(exist_ok=True)
    for path in present.keys() - wanted.keys():
        path.unlink()
    for path, text in wanted.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
