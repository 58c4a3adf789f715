"""Calibration on a real Dask cluster, one of whose workers is killed."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import onnxcomp
from onnxcomp.cli import cli

distributed = pytest.importorskip("distributed")

MODELS = Path(__file__).resolve().parent.parent / "models"
MODEL, DATA = MODELS / "digits_cnn.onnx", MODELS / "digits.npz"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=logging.CRITICAL
    ) as found:
        yield found


def plain(**options: Any) -> str:
    return onnxcomp.calibrate(MODEL, calib=DATA, threads=1, **options).to_json()


def test_a_cluster_gives_the_same_file(cluster: Any, tmp_path: Path) -> None:
    from click.testing import CliRunner

    out = tmp_path / "ranges.json"
    command = ["calibrate", str(MODEL), "--calib", str(DATA), "--threads", "1", "-o", str(out)]
    done = CliRunner().invoke(cli, [*command, "--cluster", cluster.scheduler_address])
    assert done.exit_code == 0, done.output
    assert out.read_text() == plain()


def test_a_killed_worker_changes_nothing(cluster: Any) -> None:
    client = distributed.Client(cluster)
    pids = client.run(os.getpid)
    killed: list[int] = []

    def progress(done: int, total: int | None) -> None:
        if done >= 50 and not killed:
            killed.append(next(iter(pids.values())))
            os.kill(killed[0], signal.SIGKILL)

    with client:
        executor = client.get_executor()
        found = onnxcomp.calibrate(
            MODEL, calib=DATA, threads=1, executor=executor, progress=progress
        )
    assert killed
    assert found.to_json() == plain()


def test_a_scheduler_without_workers_is_named(tmp_path: Path) -> None:
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=":0") as empty,
        pytest.raises(onnxcomp.UsageError, match="the scheduler has no workers"),
    ):
        plain(cluster=empty.scheduler_address)
