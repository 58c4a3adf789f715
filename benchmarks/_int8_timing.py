"""Times an int8 model beside its original: `_int8_timing.py CASE ORIGINAL RESULT` prints JSON.

Both run in turns, A B B A, on one thread and on the first samples that the case is judged on.
"""

from __future__ import annotations

import json
import sys

from _cases import Case, find_cases, judged_feeds

from onnxcomp.latency import measure_in_turns
from onnxcomp.runtime import Session

FEEDS = 3
SECONDS = 1.2
# Speed-ups are measured so often, to tell their spread; once where one is out of the question.
REPEATS = 3
HOPELESS = 0.7


def speedups(case: Case, original: str, result: str) -> list[float]:
    """Return how many times faster than the original a result is, measured several times."""
    before, after = Session(original, optimize=True), Session(result, optimize=True)
    feeds = judged_feeds(case, lambda item: list(before.run(item).values()), FEEDS)
    found: list[float] = []
    while len(found) < REPEATS and not (found and found[0] < HOPELESS):
        found.append(measure_in_turns(before, after, feeds, SECONDS).speedup)
    return found


if __name__ == "__main__":
    print(json.dumps(speedups(find_cases()[sys.argv[1]], sys.argv[2], sys.argv[3])))
