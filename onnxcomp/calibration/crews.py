"""Workers to calibrate with: processes, a Dask cluster, or any executor."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager

from onnxcomp.calibration.workers import Crew
from onnxcomp.errors import UsageError
from onnxcomp.runtime import first_line

# Tasks that an executor gets at a time whose size is not known.
TASKS = 16
# Seconds to wait for a cluster to answer.
PATIENCE = 10


@contextmanager
def open_crew(
    workers: int = 0, cluster: str | None = None, executor: Executor | None = None
) -> Iterator[Crew | None]:
    """Yield who is to count: `executor`, a cluster at an address, processes here, or nobody else.

    Raises `UsageError` when the cluster does not answer, or its package is missing.
    """
    if executor is not None:
        yield Crew(lambda: executor, TASKS)
    elif cluster is not None:
        with _cluster_crew(cluster) as crew:
            yield crew
    elif workers > 0:
        yield _local_crew(workers)
    else:
        yield None


def _local_crew(workers: int) -> Crew:
    context = multiprocessing.get_context("spawn")  # ONNX Runtime's threads do not survive a fork
    return Crew(lambda: ProcessPoolExecutor(workers, context), 2 * workers, restarts=True)


@contextmanager
def _cluster_crew(address: str) -> Iterator[Crew]:
    try:
        from distributed import Client
    except ImportError as error:
        raise UsageError("--cluster needs Dask: pip install 'onnxcomp[cluster]'") from error
    try:
        client = Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise UsageError(f"--cluster {address}: no Dask scheduler: {first_line(error)}") from error
    with client:
        count = len(client.scheduler_info(n_workers=-1)["workers"])
        if not count:
            raise UsageError(f"--cluster {address}: the scheduler has no workers; start some")
        executor = client.get_executor(retries=1)
        yield Crew(lambda: executor, 2 * count)
