"""Judges an int8 model: `_int8_verdict.py CASE ORIGINAL RESULT` prints JSON.

A script of its own, since a broken model may take the process that runs it down.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from _cases import Case, Feeds, find_cases
from _verdict import count_bytes, file_problems, interface_problems, notes, read

from onnxcomp.errors import ModelError
from onnxcomp.parity import ParityMeter
from onnxcomp.runtime import LEVELS, Session

# Answers that are compared with those of the original, which is slow without rewrites; the metric
# is of all.
COMPARED = 16


def judge(case: Case, original: Path, result: Path) -> dict[str, Any]:
    """Return a result's bytes, metric, SQNR in dB of its worst output, and what is wrong."""
    before, after = read(original), read(result)
    problems = interface_problems(before.proto, after.proto)
    problems += [text for text in file_problems(after, LEVELS) if text not in problems]
    metric, sqnr = None, None
    try:
        metric, meter = answer(case, original, result)
        outputs = meter.result().outputs
        problems += [f"{name}: {found.broken}" for name, found in outputs.items() if found.broken]
        sqnr = meter.result().sqnr_db
    except ModelError as error:
        problems.append(str(error))
    return {
        "bytes": count_bytes(after),
        "metric": metric,
        "sqnr_db": sqnr,
        "problems": list(dict.fromkeys(problems)),
        "notes": notes(before.proto, after.proto),
    }


def answer(case: Case, original: Path, result: Path) -> tuple[float | None, ParityMeter]:
    """Run a result, as users do, on all that a case asks; the reference runs without rewrites."""
    reference, session = Session(str(original)), Session(str(result), optimize=True)
    meter = ParityMeter()

    def predict(feeds: Feeds) -> list[Any]:
        answers = session.run(feeds)
        if meter.samples < COMPARED:
            meter.add(reference.run(feeds), answers)
        return list(answers.values())

    return case.evaluate(predict), meter


if __name__ == "__main__":
    chosen = find_cases()[sys.argv[1]]
    print(json.dumps(judge(chosen, Path(sys.argv[2]), Path(sys.argv[3]))))
