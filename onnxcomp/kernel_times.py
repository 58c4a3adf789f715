"""How long each kernel of a model takes, as ONNX Runtime's own profiler tells."""

from __future__ import annotations

import json
import re
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from onnxcomp.graph import Array
from onnxcomp.int8_coverage import with_names
from onnxcomp.runtime import as_source, load, session_options

# Runs, and those of a model that takes long: after so many seconds there are no more than these.
RUNS, FEWEST = 5, 3
SECONDS = 0.2
SUFFIX = "_kernel_time"
# What ONNX Runtime appends to the name of a node or value when it makes a kernel's name of it.
DECORATION = re.compile(r"(_nchwc|_nhwc|_token_\d+|/duplicated|_quant)+$")


def kernel_times(
    model: ir.Model, feeds: Sequence[Mapping[str, Array]], threads: int
) -> dict[str, float]:
    """Return the median microseconds of each kernel in a run, by the name of a node or of a value.

    A kernel is named after the node that it stands for or, in a blocked layout, after the value
    that it makes. Nodes without a name have their label.
    """
    options = session_options(optimize=True, threads=threads)
    options.enable_profiling = True
    times: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="onnxcomp-") as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        with as_source(with_names(model)) as source:
            session = load(source, options)
            started, runs = time.perf_counter(), 0
            while runs < FEWEST or (runs < RUNS and time.perf_counter() - started < SECONDS):
                for item in feeds:
                    session.run(None, dict(item))
                runs += 1
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(SUFFIX):
            name = DECORATION.sub("", event["name"].removesuffix(SUFFIX))
            times[name].append(float(event["dur"]))
    count = runs * len(feeds)
    return {name: statistics.median(found) * len(found) / count for name, found in times.items()}
