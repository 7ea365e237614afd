"""Blocks of paths in threads of this process, or in processes of joblib.

Threads serve work that computes in compiled kernels, which release Python's lock: nothing is started or sent. All other
work takes processes, on this machine or on a cluster inside `joblib.parallel_config`: Python code holds the lock, and
`torch.func.jvp` keeps a counter of its nesting that all threads share. What all blocks need (problem, control variates)
is pickled once, into one array of bytes. joblib maps a large array into the memory of its own workers, dask sends it
once to each worker, and each worker unpickles it once.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import joblib
import numpy as np
import torch
from joblib.parallel import LokyBackend, get_active_backend

from smesolve.sampling import pickling

__all__ = ["Task", "run_blocks"]

Result = TypeVar("Result")

Task = tuple[str, int]
"""Name of the work and number of the block."""

ATTEMPTS = 7
"""Number of consecutive losses of workers, without a finished block in between, after which `run_blocks` gives up."""

PAUSE = 0.25
"""Half of the pause after the first loss of workers, in seconds; each further loss doubles the pause. A cluster takes
time to notice that a worker is gone, and a busy machine to start another; until then each attempt fails at once."""

_unpickled: dict[str, Mapping[str, Callable[[int], Any]]] = {}
"""In a worker, the work that was unpickled last, keyed by its digest."""

_one_at_a_time = threading.Lock()
"""In a worker with several threads, as dask's may have them, one block runs at a time."""


def run_blocks(
    work: Mapping[str, Callable[[int], Result]],
    tasks: Sequence[Task],
    workers: int | None = None,
    in_threads: bool = False,
) -> Iterator[tuple[int, Result]]:
    """Run tasks and yield (position in tasks, result) as they are done, in any order.

    Results of the functions in `work` depend on the block number only. Workers are processes or threads, which share
    the threads of torch. Default: one, unless `joblib.parallel_config` says otherwise. They are threads if `in_threads`
    says that the work releases Python's lock while it computes and keeps no state that threads would share, unless
    `joblib.parallel_config` names a backend other than joblib's own.

    Raises:
        RuntimeError: workers were lost several times in a row. After each loss but the last, the unfinished blocks are
            run again.
    """
    jobs = joblib.effective_n_jobs(workers) if tasks else 1
    if jobs == 1:
        for position, (name, block) in enumerate(tasks):
            yield position, work[name](block)
        return
    if in_threads and isinstance(get_active_backend()[0], LokyBackend):
        yield from _in_threads(work, tasks, jobs)
        return
    names = {name for name, _ in tasks}
    pickled = pickling.dumps({name: work[name] for name in names})
    digest = hashlib.blake2b(pickled, digest_size=16).hexdigest()
    threads = max(1, torch.get_num_threads() // jobs)
    left, lost = dict(enumerate(tasks)), 0
    while left:
        shared = np.frombuffer(pickled, dtype=np.uint8).copy()  # a new array: dask has lost the last one with a worker
        results, failure = None, None
        try:
            with _workers_that_end_with_this_process():  # which begins to hand out tasks, so it may fail as well
                results = joblib.Parallel(n_jobs=workers, return_as="generator_unordered")(
                    joblib.delayed(_run)(shared, digest, threads, os.getpid(), position, name, block)
                    for position, (name, block) in left.copy().items()
                )
            for position, result, failure in results:
                if failure is not None:
                    break
                del left[position]
                lost = 0
                yield position, result
        except Exception as error:
            # An exception of a block comes back as a value, so this one concerns the workers: one was killed, say.
            lost += 1
            if lost == ATTEMPTS:
                raise RuntimeError(f"workers were lost {lost} times in a row: {error!r}") from error
            time.sleep(PAUSE * 2**lost)
        finally:
            if results is not None:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message=".*tasks", category=UserWarning)  # left undone on purpose
                    results.close()
        if failure is not None:
            raise failure


def _in_threads(
    work: Mapping[str, Callable[[int], Result]], tasks: Sequence[Task], jobs: int
) -> Iterator[tuple[int, Result]]:
    """Run tasks in threads. At most two results per thread wait to be consumed."""
    before, errors = torch.get_num_threads(), np.geterr() | {"call": np.geterrcall()}
    queue, pending = iter(enumerate(tasks)), dict[Future[Result], int]()
    with ThreadPoolExecutor(jobs, initializer=torch.set_num_threads, initargs=(max(1, before // jobs),)) as pool:
        try:
            while True:
                for position, (name, block) in islice(queue, 2 * jobs - len(pending)):
                    here = copy_context()  # silenced warnings
                    run = partial(_as_in_the_caller, torch.is_grad_enabled(), errors, work[name], block)
                    pending[pool.submit(here.run, run)] = position
                if not pending:
                    return
                for done in wait(pending, return_when=FIRST_COMPLETED).done:
                    yield pending.pop(done), done.result()
        finally:
            for future in pending:
                future.cancel()
            torch.set_num_threads(before)  # the threads have set that of the whole process


def _as_in_the_caller(
    gradients: bool, errors: Mapping[str, Any], function: Callable[[int], Result], block: int
) -> Result:
    """Run a block with the caller's grad mode of torch and error state of numpy, which each thread has of its own."""
    with torch.set_grad_enabled(gradients), np.errstate(**errors):
        return function(block)


def _run(
    shared: np.ndarray, digest: str, threads: int, parent: int, position: int, name: str, block: int
) -> tuple[int, Any, Exception | None]:
    """Run one block in a worker."""
    with _one_at_a_time:
        if os.getpid() != parent:  # joblib runs tasks in the parent where a cluster has lost all workers but one
            _settle(threads)
        try:
            if digest not in _unpickled:
                _unpickled.clear()
                _unpickled[digest] = pickle.loads(shared)
            return position, _unpickled[digest][name](block), None
        except Exception as failure:
            return position, None, failure


def _settle(threads: int) -> None:
    """Set the number of torch's threads in a worker process, and leave the handling of interruptions to its parent."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def _workers_that_end_with_this_process() -> AbstractContextManager[object]:
    """Let joblib's own workers watch this process from their start; those of a cluster belong to the cluster."""
    backend, _ = get_active_backend()
    if not isinstance(backend, LokyBackend):
        return nullcontext()
    watched: AbstractContextManager[object] = joblib.parallel_config(
        "loky", initializer=_end_with, initargs=(os.getpid(),)
    )
    return watched


def _end_with(parent: int) -> None:
    """End this process when its parent has ended: joblib's workers would go on waiting for a parent that was killed.

    Windows does not report that a parent has ended. There joblib ends workers that have been idle for 5 minutes.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
