"""The mutation run finds what tests find, and tells what they do not."""

from __future__ import annotations

import ast
from pathlib import Path

from mutation.operators import mutants, mutate
from mutation.run import SURVIVED, Ledger, find_targets, run_target

SOURCE = '''
"""A docstring."""

def found(node: Node | None, *, axis: int = 1) -> bool:
    """Not this 1 either."""
    if node is None or not is_op(node, "Relu"):
        leave(node, "a message of 1 kind")
        return False
    while axis < 3 and not node.done:
        axis += 1
    return all(item.name == "x" for item in node.outputs[1:])
'''


def test_what_is_changed() -> None:
    changes = {(mutant.before, mutant.after) for mutant in mutants(SOURCE)}
    assert {
        ("axis < 3", "axis <= 3"),
        ("axis < 3", "axis >= 3"),
        ("axis < 3 and (not node.done)", "axis < 3 or not node.done"),
        ("axis < 3 and (not node.done)", "axis < 3"),
        ("not node.done", "node.done"),
        ("axis += 1", "pass"),
        ("axis += 1", "axis -= 1"),
        ("3", "4"),
        ("'Relu'", "'XX'"),
        ("False", "True"),
        ("all", "any"),
    } <= changes
    assert not any(before.startswith(("'a message", "Node")) for before, _ in changes)
    assert ("node is None or not is_op(node, 'Relu')", "not is_op(node, 'Relu')") not in changes


def test_each_mutant_is_one_change_that_compiles() -> None:
    usual = ast.unparse(ast.parse(SOURCE))
    texts = set()
    for number in range(len(mutants(SOURCE))):
        tree = mutate(SOURCE, number)
        compile(tree, "mutant", "exec")
        texts.add(ast.unparse(tree))
    assert usual not in texts


def test_a_run_kills_what_matters_and_keeps_what_it_learnt(tmp_path: Path) -> None:
    (target,) = find_targets(["eliminate_identity"])
    ledger = tmp_path / "ledger.jsonl"
    verdicts = run_target(target, Ledger(ledger), jobs=2)
    killed = {str(v.mutant.before): v.status for v in verdicts if v.status != SURVIVED}
    assert "'Identity'" in killed
    assert "continue" in killed
    assert sum(v.status != SURVIVED for v in verdicts) >= 0.9 * len(verdicts)
    rows = ledger.read_text()
    assert run_target(target, Ledger(ledger), jobs=2) == verdicts
    assert ledger.read_text() == rows  # nothing ran again
