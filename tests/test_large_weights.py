"""Weights that lie in files are stored in fewer bits one by one: memory does not grow with them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
WIDTH, LAYERS, WORDS = 1024, 5, 8000
# Beside twice the largest weight: what parsing, samples and scales take. The samples count as
# random, since a look at inputs loads the model.
SPARE = 120e6
CHILD = """
import dataclasses, json, re, sys, threading, time
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[1])
from _transformer import write_transformer
from onnxcomp.calibration.samples import open_samples
from onnxcomp.edits import sweep
from onnxcomp.model_io import load_model, save_model
from onnxcomp.registry import apply, find_pass
from onnxcomp.runtime import input_specs
from onnxcomp.targets import find_target

def private():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

path, name, options = Path(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
size = write_transformer(path, **json.loads(sys.argv[5]))
found, peak, over = find_pass(name), 0, False
before = private()

def watch():
    global peak
    while not over:
        peak = max(peak, private() - before)
        time.sleep(0.01)

thread = threading.Thread(target=watch)
thread.start()
model = load_model(path)
feeds = [{"ids": np.zeros((1, 4), np.int64)}]
samples = dataclasses.replace(open_samples(feeds, input_specs(model)), synthetic=True)
needs = {"samples": samples, "target": find_target("portable")}
sites = apply(found, model, options, needs).sites
sweep(model)
after = save_model(model, path.with_name("after.onnx"), external=True)
over = True
thread.join()
print(json.dumps({"before": size, "after": after, "sites": sites, "peak": peak}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize(
    ("name", "options", "share"),
    [
        ("quantize-blocks", {"rounding": "nearest", "form": "folded"}, 0.165),
        ("cluster-weights", {}, 0.13),
        ("convert-float16", {}, 0.505),
    ],
)
def test_memory_is_that_of_the_largest_weight(
    name: str, options: dict[str, object], share: float, tmp_path: Path
) -> None:
    sizes = {"width": WIDTH, "layers": LAYERS, "words": WORDS}
    arguments = [str(BENCHMARKS), str(tmp_path / "m.onnx"), name]
    ran = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments, json.dumps(options), json.dumps(sizes)],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(ran.stdout)
    assert found["sites"] == 6 * LAYERS + 1
    assert found["after"] < share * found["before"]
    largest = 4 * max(WORDS * WIDTH, 4 * WIDTH * WIDTH)
    assert 2 * largest + SPARE < found["before"]  # to hold all of them would be found out
    assert found["peak"] < 2 * largest + SPARE
