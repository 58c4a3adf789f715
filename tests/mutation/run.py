"""Puts small errors into the lossless passes, one at a time, and counts those that tests find.

Each mutant lives in a fork of this process: the module is executed anew with the error in it, then
those that import it, and the pages of the passes among them are checked, then the tests of
`MORE_TESTS`. A mutant that no check finds survives. What is known of a mutant is kept in a file: a
kill while the source stays the same, a survival while the tests do too.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import fnmatch
import gc
import hashlib
import importlib
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from types import CodeType

import onnx_ir as ir
import pytest

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

from case_checks import Reference, check_answers, check_text, prepare  # noqa: E402
from case_pages import FOLDER, read_page  # noqa: E402
from mutation.operators import Mutant, mutants, mutate  # noqa: E402
from mutation.tables import File, write_tables  # noqa: E402
from near_misses import NearMiss, check_near_miss, read_near_misses  # noqa: E402
from onnxcomp.registry import apply, find_pass, list_passes  # noqa: E402

PASSES = TESTS.parent / "onnxcomp" / "passes"
FAMILIES = ("cleanup", "fold", "fuse")
# Beside the pages: what tests a module in ways that no page can. Patterns of file names.
MORE_TESTS = {
    "fuse_consecutive_clips": ["test_infinite_bounds.py"],
    "deduplicate_transposed_initializers": ["test_transposed_initializers.py"],
    "_broadcast": ["test_broadcast.py"],
    "_slices": ["test_movement_properties.py::test_two_slices"],
    "_axes": ["test_movement_properties.py::test_squeezes_and_unsqueezes"],
    "_content": ["test_fold_limits.py", "test_cleanup.py"],
    "fold_shape_arithmetic": ["test_fold_limits.py"],
    "deduplicate_initializers": ["test_cleanup.py"],
    "_batch": ["test_fold_constants.py"],
    "_growth": ["test_fold_constants.py"],
    "fold_constants": ["test_fold_limits.py", "test_fold_constants.py"],
    "lift_constants": ["test_fold_constants.py"],
    "fuse_consecutive_casts": ["test_movement_properties.py::test_two_casts"],
    "fuse_consecutive_slices": ["test_movement_properties.py::test_two_slices"],
    "normalize_auto_pad": ["test_movement_properties.py::test_auto_pad"],
    "fuse_pad_into_pool": ["test_movement_properties.py::test_a_pad_before_a_pool"],
}
HARNESS = ("case_pages", "case_checks", "near_misses")
SURVIVED, PAGE, NEAR, TEST, STUCK, BROKEN = "survived", "page", "near", "test", "stuck", "broken"
EXIT_CODES = {SURVIVED: 0, PAGE: 10, TEST: 11, BROKEN: 12, NEAR: 13}
CPU_SECONDS = 20  # a mutant that computes this much longer than the checks take is stuck
WALL_SECONDS = 600
MEMORY = 8 * 2**30


@dataclass(frozen=True)
class Target:
    """A source file, the modules that import it, and what checks them."""

    path: Path
    source: str
    dependants: tuple[str, ...]
    pages: tuple[str, ...]
    tests: tuple[str, ...]

    @property
    def module(self) -> str:
        """The name of the module."""
        return _module(self.path)

    @property
    def label(self) -> str:
        """The path within the passes."""
        return self.path.relative_to(PASSES).as_posix()

    def digests(self) -> tuple[str, str]:
        """Return what a kill and what a survival depend on."""
        operators = (TESTS / "mutation" / "operators.py").read_text()
        texts = [(TESTS / f"{name}.py").read_text() for name in HARNESS]
        texts += [(FOLDER / f"{page}.md").read_text() for page in self.pages]
        texts += [(TESTS / test.partition("::")[0]).read_text() for test in self.tests]
        texts += [_source(name) for name in self.dependants]
        return _digest([self.source, operators]), _digest([self.source, operators, *texts])


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant."""

    file: str
    number: int
    mutant: Mutant
    status: str


@dataclass
class Ledger:
    """What is known of mutants, in a file of one JSON object a line."""

    path: Path
    known: dict[tuple[str, int, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                row = json.loads(line)
                self.known[row["file"], row["number"], row["digest"]] = row["status"]

    def find(self, target: Target, number: int) -> str | None:
        """Return the status that still holds for a mutant, or None."""
        for digest in target.digests():
            if (target.label, number, digest) in self.known:
                return self.known[target.label, number, digest]
        return None

    def add(self, target: Target, verdict: Verdict) -> None:
        """Note what became of a mutant."""
        digest = target.digests()[verdict.status == SURVIVED]
        row = {"file": target.label, "number": verdict.number, "digest": digest}
        with self.path.open("a") as file:
            file.write(json.dumps(row | {"status": verdict.status, **asdict(verdict.mutant)}))
            file.write("\n")


# ---------------------------------------------------------------- targets
def find_targets(patterns: Sequence[str] = ()) -> list[Target]:
    """Return the source files to mutate, by patterns of names without `.py` (none: all)."""
    paths = [*PASSES.glob("_*.py"), *(p for name in FAMILIES for p in (PASSES / name).glob("*.py"))]
    names = {path: path.stem for path in paths if path.stem != "__init__"}
    chosen = [
        path
        for path, name in names.items()
        if not patterns or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
    ]
    return [_target(path) for path in sorted(chosen, key=lambda p: (p.stem[0] == "_", p))]


def _target(path: Path) -> Target:
    dependants = tuple(_dependants(_module(path)))
    modules = {_module(path), *dependants}
    names = [name for name, found in list_passes().items() if found.function.__module__ in modules]
    pages = [name for name in names if (FOLDER / f"{name}.md").exists()]
    pages.sort(key=lambda name: (FOLDER / f"{name}.md").stat().st_size)
    tests = [
        test
        for pattern, found in MORE_TESTS.items()
        for test in found
        if fnmatch.fnmatch(path.stem, pattern)
    ]
    return Target(path, path.read_text(), dependants, tuple(pages), tuple(dict.fromkeys(tests)))


def _dependants(module: str) -> Iterator[str]:
    """Yield the modules of passes that import one, each after those that it imports itself."""
    found = {module}
    imports = _imports()
    while more := [name for name, used in imports.items() if used & found and name not in found]:
        found.update(more)
        yield from more


@cache
def _imports() -> dict[str, set[str]]:
    prefix = "onnxcomp.passes."
    found = {}
    for path in sorted(PASSES.rglob("*.py")):
        nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)]
        found[_module(path)] = {n.module for n in nodes if n.module and n.module.startswith(prefix)}
    return found


def _module(path: Path) -> str:
    return ".".join(path.relative_to(PASSES.parents[1]).with_suffix("").parts)


def _source(module: str) -> str:
    return Path(str(importlib.import_module(module).__file__)).read_text()


@cache
def _code(module: str) -> CodeType:
    return compile(_source(module), module, "exec")


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


# ---------------------------------------------------------------- one mutant
def spawn(target: Target, number: int | None, cpu: float) -> int:
    """Start the check of a mutant (None: of the source as it is) and return its process."""
    child = os.fork()
    if child:
        return child
    try:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 1)
            os.dup2(nothing.fileno(), 2)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(WALL_SECONDS)
        resource.setrlimit(resource.RLIMIT_CPU, (int(cpu), int(cpu)))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os._exit(EXIT_CODES[_status(target, number)])
    finally:
        os._exit(EXIT_CODES[BROKEN])


def _status(target: Target, number: int | None) -> str:
    references = [reference for page in target.pages for reference in _references(page)]
    nears = [near for page in target.pages for near in _near_misses(page)]
    tree = ast.parse(target.source) if number is None else mutate(target.source, number)
    try:
        exec(compile(tree, str(target.path), "exec"), sys.modules[target.module].__dict__)
        for name in target.dependants:
            exec(_code(name), sys.modules[name].__dict__)
    except Exception:
        return BROKEN
    try:
        models = [check_text(reference) for reference in references]
        for reference, model in zip(references, models, strict=True):
            check_answers(reference, model)
    except BaseException:
        return PAGE
    try:
        for near, usual in nears:
            if _outcome(near) != usual:  # else it is as right as without the mutant
                check_near_miss(near)
    except BaseException:
        return NEAR
    if target.tests:
        tests = [str(TESTS / test) for test in target.tests]
        if pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]):
            return TEST
    return SURVIVED


def _outcome(near: NearMiss) -> tuple[int, bytes]:
    """Return what a pass makes of a near miss: the number of sites, and the model."""
    model = ir.from_proto(near.proto)
    try:
        sites = apply(find_pass(near.case.pass_name), model, near.case.options).sites
    except Exception:
        return -1, b""
    return sites, ir.to_proto(model).SerializeToString() if sites else b""


def _ended(code: int) -> str:
    if os.WIFSIGNALED(code):
        return STUCK
    status = os.WEXITSTATUS(code)
    return next((name for name, number in EXIT_CODES.items() if number == status), BROKEN)


# ---------------------------------------------------------------- a run
def run_target(target: Target, ledger: Ledger | None = None, jobs: int = 2) -> list[Verdict]:
    """Check every mutant of a source file, as many at once as there are `jobs`."""
    found = mutants(target.source)
    verdicts: dict[int, Verdict] = {}
    for number, mutant in enumerate(found):
        status = ledger.find(target, number) if ledger else None
        if status is not None:
            verdicts[number] = Verdict(target.label, number, mutant, status)
    waiting = [number for number in range(len(found)) if number not in verdicts]
    if waiting:
        for page in target.pages:  # read here, once, and not in each process
            _references(page)
            _near_misses(page)
        gc.collect()
        gc.freeze()  # a collection in a child would copy what it shares with this process
        cpu = _baseline(target) * 3 + CPU_SECONDS
        running: dict[int, int] = {}
        while waiting or running:
            while waiting and len(running) < jobs:
                number = waiting.pop(0)
                running[spawn(target, number, cpu)] = number
            child, code = os.wait()
            number = running.pop(child)
            verdicts[number] = Verdict(target.label, number, found[number], _ended(code))
            if ledger:
                ledger.add(target, verdicts[number])
    return [verdicts[number] for number in range(len(found))]


@cache
def _references(page: str) -> tuple[Reference, ...]:
    cases = read_page(FOLDER / f"{page}.md")
    return tuple(prepare(case, cases) for case in cases)


@cache
def _near_misses(page: str) -> tuple[tuple[NearMiss, tuple[int, bytes]], ...]:
    nears = read_near_misses(read_page(FOLDER / f"{page}.md"))
    return tuple((near, _outcome(near)) for near in nears)


def _baseline(target: Target) -> float:
    """Return the CPU seconds that the checks take where nothing is wrong."""
    child = spawn(target, None, WALL_SECONDS)
    _, code, used = os.wait4(child, 0)
    if _ended(code) != SURVIVED:
        raise SystemExit(f"{target.label}: its checks fail without a mutant ({_ended(code)})")
    return used.ru_utime + used.ru_stime


def known_of(target: Target, ledger: Ledger) -> File:
    """Return what is known of the mutants of a source file, without running any."""
    found = mutants(target.source) if target.pages else []
    statuses = [ledger.find(target, number) for number in range(len(found))]
    killed = sum(status not in (None, SURVIVED) for status in statuses)
    pairs = zip(found, statuses, strict=True)
    survivors = tuple(mutant for mutant, status in pairs if status == SURVIVED)
    return File(target.label, len(found), killed, survivors)


def main() -> None:
    """Run over the files that are named, or all, and print what survives."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="patterns of file names without .py (all)")
    scratch = Path(tempfile.gettempdir()) / "onnxcomp-mutants.jsonl"
    parser.add_argument("--ledger", type=Path, default=scratch, help="what is known of mutants")
    parser.add_argument("--fresh", action="store_true", help="forget what is known")
    parser.add_argument("--jobs", type=int, default=2, help="how many mutants at once")
    parser.add_argument("--write", action="store_true", help="run nothing; write the page's tables")
    options = parser.parse_args()
    if options.write:
        write_tables([known_of(target, Ledger(options.ledger)) for target in find_targets()])
        return
    if options.fresh:
        options.ledger.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        os.nice(10)
    ledger = Ledger(options.ledger)
    totals: Counter[str] = Counter()
    for target in find_targets(options.names):
        if not target.pages:
            _say(f"{target.label}: no page")
            continue
        start = time.monotonic()
        verdicts = run_target(target, ledger, options.jobs)
        killed = sum(verdict.status != SURVIVED for verdict in verdicts)
        family = target.label.rpartition("/")[0] or "shared"
        totals.update({f"{family} killed": killed, f"{family} all": len(verdicts)})
        totals.update({"all killed": killed, "all all": len(verdicts)})
        _say(f"{_share(target.label, killed, len(verdicts))}  {time.monotonic() - start:5.1f} s")
        for verdict in verdicts:
            if verdict.status == SURVIVED:
                _say(f"    {verdict.mutant.line}: {verdict.mutant}")
    for family in ("shared", *FAMILIES, "all"):
        _say(_share(family, totals[f"{family} killed"], totals[f"{family} all"]))


def _share(label: str, killed: int, count: int) -> str:
    return f"{label:55} {killed:5} of {count:5} {100 * killed / max(count, 1):6.1f} %"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
