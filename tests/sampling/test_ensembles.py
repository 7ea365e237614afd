"""Streaming statistics, blocks over processes, the journal: the same numbers however the work is split."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from problems import make_problem

import smesolve as sme
from smesolve.comparison.mean_estimate import MeanEstimate
from smesolve.comparison.outcomes import Status
from smesolve.comparison.path_statistics import PathStatistics
from smesolve.sampling.journal import Journal, JournalError
from smesolve.sampling.moments import Moments
from smesolve.sampling.parallel import run_blocks

# --- streaming statistics ----------------------------------------------------------------------------------------


def test_merged_moments_are_those_of_all_values_together():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((3, 50, 4)) ** 2 + 1e3  # far from zero: sums of powers would lose all digits
    whole = Moments.of(values, 4)
    parts = [Moments.of(part, 4) for part in np.split(values, [1, 9, 30], axis=1)]
    merged = parts[0].merged(parts[1]).merged(parts[2]).merged(parts[3])
    weights = rng.standard_normal((3, 4))
    single = np.einsum("ip,inp->np", weights, values)
    for moments in (whole, merged, Moments.unpacked(merged.packed(), 3, 4)):
        assert moments.count == 50 and moments.order == 4
        centred = values - values.mean(1, keepdims=True)
        assert np.allclose(moments.covariance(), np.einsum("inp,jnp->pij", centred, centred), rtol=1e-11, atol=1e-11)
        one = moments.combined(weights)
        assert np.allclose(one.mean[0], single.mean(0), rtol=1e-13)
        for degree, found in enumerate(one.sums, start=2):
            expected = ((single - single.mean(0)) ** degree).sum(0)
            assert np.allclose(found[0], expected, rtol=1e-9), degree


def cross_fitted(value, controls):
    """Return the result of `estimate` from the values of all paths: each half is every other chunk of the blocks."""
    halves = np.arange(len(value)) // 8 % 2
    adjusted = np.empty_like(value)
    for half in (0, 1):
        here, other = halves == half, halves != half
        centred = controls[other] - controls[other].mean(0)
        beta = np.linalg.lstsq(centred, value[other] - value[other].mean(), rcond=None)[0]
        adjusted[here] = value[here] - controls[here] @ beta
    return adjusted


@pytest.mark.parametrize("left", [1.0, 1e-4])
def test_an_estimate_from_statistics_is_the_regression_on_all_values(left):
    """Control variates leave 1e-4 of the spread, so the fourth moment is 1e-16 of the fourth moment of the values."""
    rng = np.random.default_rng(1)
    blocks, size = 20, 16
    controls = rng.standard_normal((3, blocks * size))
    controls[2] = 0.99 * controls[1] + 0.1 * controls[2]
    value = 0.7 + controls.sum(0) + left * (rng.standard_normal(blocks * size) ** 2 + 0.1 * controls[0])
    columns = np.stack([value, value - controls.sum(0), *controls])[:, :, None, None]
    statistics = None
    for block in np.split(columns, blocks, axis=1):
        one = PathStatistics.of(block, antithetic=False, order=4, keep=3)
        statistics = one if statistics is None else statistics.merged(one)
    found, direct = MeanEstimate.of(statistics), cross_fitted(value, controls.T)
    assert found.mean.item() == pytest.approx(direct.mean(), rel=1e-13)
    assert found.stderr.item() == pytest.approx(direct.std(ddof=1) / len(value) ** 0.5, rel=1e-9)
    centred = direct - direct.mean()
    assert found.kurtosis.item() == pytest.approx((centred**4).mean() / (centred**2).mean() ** 2, rel=1e-8)
    assert found.plain_stderr.item() == pytest.approx(value.std(ddof=1) / len(value) ** 0.5, rel=1e-12)
    assert statistics.paths == blocks * size and statistics.values.shape == (3 * blocks, 1)
    again = PathStatistics.from_arrays(statistics.arrays("prefix "), "prefix ")
    assert MeanEstimate.of(again).mean == found.mean and (again.values == statistics.values).all()


def test_a_diverged_path_is_counted_and_spoils_the_mean():
    values = np.random.default_rng(0).standard_normal((2, 16, 2, 1))
    for bad in (np.nan, np.inf, -1e80):
        broken = values.copy()
        broken[0, 3, 1] = broken[0, 5, 0] = bad
        statistics = PathStatistics.of(values, False, 4).merged(PathStatistics.of(broken, False, 4))
        found = MeanEstimate.of(statistics)
        assert found.diverged.sum() + found.undefined.sum() == 2 and found.paths == 32
        assert np.isnan(found.mean).all()


# --- blocks over processes ---------------------------------------------------------------------------------------


def small_study(**changes):
    problem = make_problem(width=3)
    arguments = {"lrs": [0.1, 0.05], "horizon": 0.2, "paths": 3000, "observables": ["loss", "theta[1]"]}
    return sme.weak_error(problem, problem.initial(), **arguments | changes)


@pytest.fixture(scope="module")
def undisturbed():
    return small_study(keep=1500)


def test_results_do_not_depend_on_the_number_of_workers(undisturbed):
    for workers in (1, 2):
        study = small_study(keep=1500, workers=workers)
        pd.testing.assert_frame_equal(study.table, undisturbed.table, check_exact=True)
        for key, observables in undisturbed.samples.items():
            assert len(observables["loss"]) == 1500
            for name, values in observables.items():
                assert (study.samples[key][name] == values).all()
    problem = make_problem(width=3)
    theta0, many = problem.initial(), 2 * problem.block_size + 5
    equation = sme.ModifiedEquation(problem, 0.1)
    alone = sme.iterate(problem, theta0, 0.1, 3, many)
    assert torch.equal(alone, sme.iterate(problem, theta0, 0.1, 3, many, workers=2))
    alone = sme.solve(equation, theta0, [0, 0.2, 0.4], dt=0.1, paths=many)
    assert torch.equal(alone, sme.solve(equation, theta0, [0, 0.2, 0.4], dt=0.1, paths=many, workers=2))


def test_problems_known_by_sampling_alone_go_to_other_processes():
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Dropout(0.2), torch.nn.Linear(3, 3))
    x, y = torch.linspace(-1, 1, 12).reshape(6, 2), torch.arange(6) % 3
    problem = sme.ModuleProblem(module.double(), x, y, loss="cross_entropy", batch_size=2)
    theta0 = problem.initial()
    arguments = {"lrs": [0.1], "horizon": 0.1, "orders": [1], "dt": 0.05, "paths": 2 * problem.block_size}
    alone = sme.weak_error(problem, theta0, **arguments).table
    assert alone.sde.notna().all()
    pd.testing.assert_frame_equal(sme.weak_error(problem, theta0, **arguments, workers=2).table, alone)


def test_results_do_not_depend_on_the_threads_of_torch():
    """Processes divide the threads among them, so a block may run on any number: large enough here to use them all."""
    problem = make_problem(width=24, samples=400)
    threads, tables = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            arguments = {"lrs": [0.1], "horizon": 0.1, "orders": [2], "paths": 8, "control": "none"}
            tables.append(sme.weak_error(problem, problem.initial(), **arguments).table)
    finally:
        torch.set_num_threads(threads)
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0], check_exact=True)


class Fatal:
    """Work whose block 3 kills its process, once."""

    def __init__(self, flag):
        self.flag = flag

    def __call__(self, block):
        if block == 3 and not self.flag.exists():
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if block == 99:
            raise ArithmeticError("of block 99")
        return block**2


def test_what_a_killed_worker_had_not_finished_runs_again(tmp_path):
    work = {"squares": Fatal(tmp_path / "flag")}
    tasks = [("squares", block) for block in range(12)]
    assert sorted(run_blocks(work, tasks, workers=2)) == [(block, block**2) for block in range(12)]
    assert (tmp_path / "flag").exists()
    with pytest.raises(ArithmeticError, match="of block 99"):
        list(run_blocks(work, [("squares", 1), ("squares", 99)], workers=2))


DESCENDANTS = """
import os, sys, time
from smesolve.sampling.parallel import run_blocks

def begun(block):
    open(os.path.join(sys.argv[1], str(os.getpid())), "w").close()
    time.sleep(600)

list(run_blocks({"begun": begun}, [("begun", block) for block in range(4)], workers=2))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")
def test_workers_end_when_their_parent_is_killed(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", DESCENDANTS, str(tmp_path)])
    workers = []
    while len(workers) < 2:  # as long as it takes
        assert parent.poll() is None
        time.sleep(0.05)
        workers = os.listdir(tmp_path)
    parent.kill()
    parent.wait()
    while any(alive(int(worker)) for worker in workers):
        time.sleep(0.05)


def alive(process):
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_cluster_that_loses_a_worker_gives_the_same_table(undisturbed):
    dask, distributed = pytest.importorskip("dask"), pytest.importorskip("distributed")
    # However busy the machine is, nothing is given up. Nothing is asked of the network, and every port is one that is
    # free: the dashboard's own one belongs to whichever cluster of the machine was there first.
    patience = {f"distributed.{key}": "600s" for key in ("comm.timeouts.connect", "comm.timeouts.tcp")}
    with (
        dask.config.set({**patience, "distributed.scheduler.worker-ttl": None}),
        closed_at_the_end(
            distributed.LocalCluster(
                n_workers=2,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                worker_dashboard_address=None,
            )
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.wait_for_workers(2)
        processes = client.run(os.getpid)
        assert len(set(processes.values()) - {os.getpid()}) == 2
        journal = KillsAWorker(next(iter(processes.values())))
        with joblib.parallel_config(backend="dask", wait_for_workers_timeout=600):
            study = small_study(keep=1500, journal=journal)
        assert journal.killed
    pd.testing.assert_frame_equal(study.table, undisturbed.table, check_exact=True)


@contextlib.contextmanager
def closed_at_the_end(cluster):
    """Close a cluster, whose workers may need longer on a busy machine than the five seconds that dask waits."""
    try:
        yield cluster
    finally:
        with contextlib.suppress(TimeoutError):
            cluster.close()


class KillsAWorker(sme.Journal):
    """A journal of nothing, which kills a worker once the third block is done."""

    def __init__(self, process):
        self.process, self.results, self.killed = process, 0, False

    def __contains__(self, key):
        return False

    def put(self, key, arrays):
        self.results += 1
        if self.results == 3:
            os.kill(self.process, signal.SIGKILL)
            self.killed = True


# --- devices -----------------------------------------------------------------------------------------------------


def test_every_tensor_is_made_on_the_device_of_the_problem():
    """No GPU is needed: tensors made without naming a device land on "meta", and cannot be combined with the CPU's."""
    problem = make_problem(width=2)
    theta0 = problem.initial()
    arguments = {"lrs": [0.1], "horizon": 0.2, "paths": 8, "control": "second"}
    expected = sme.weak_error(problem, theta0, **arguments).table
    paths = sme.iterate(problem, theta0, 0.1, 2, 3)
    with torch.device("meta"):
        found = sme.weak_error(problem, theta0, **arguments).table
        assert torch.equal(sme.iterate(problem, theta0, 0.1, 2, 3), paths)
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_float32_sees_the_same_draws_and_says_where_it_ends():
    tables = {}
    for dtype in (torch.float64, torch.float32):
        double = make_problem(width=3)
        problem = sme.DropoutProblem(sme.TwoLayerNetwork(2, 3, dtype=dtype), double.x, double.y, keep_prob=0.8)
        arguments = {"lrs": [0.02, 0.004], "horizon": 0.02, "times": [0.02], "paths": 1024, "dt": 0.004}
        tables[dtype] = sme.weak_error(problem, double.initial().to(dtype), **arguments).table
    double, single = tables.values()
    for side in ("discrete", "sde"):
        assert np.allclose(single[side], double[side], rtol=torch.finfo(torch.float32).eps)
    # the error of order 2 at the smallest lr is beyond float32, and said to be
    assert double.resolved.all()
    last = single[(single.lr == 0.004) & (single.order == 2)].iloc[0]
    assert not last.resolved and last.reason == Status.WITHIN_ROUNDING


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu():
    tables = []
    for device in ("cpu", "cuda"):
        plain = make_problem(width=3)
        problem = sme.DropoutProblem(sme.TwoLayerNetwork(2, 3, device=device), plain.x, plain.y, keep_prob=0.8)
        arguments = {"lrs": [0.1], "horizon": 0.5, "paths": 1024}
        tables.append(sme.weak_error(problem, plain.initial().to(device), **arguments).table)
    assert np.allclose(tables[1].error, tables[0].error, rtol=1e-9)


# --- the journal -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {"keep": 1500},
        {"lrs": [0.1], "orders": [2], "control": "none", "paths": 1024, "rel_tol": 0.5, "max_paths": 5000},
    ],
    ids=["paths", "rel_tol"],
)
def test_a_study_goes_on_from_its_journal(tmp_path, arguments):
    """A journal that is cut off at any byte gives the same table in the end, and only missing blocks are run."""
    path, study = tmp_path / "blocks", {"seed": 0}
    undisturbed = small_study(**arguments).table
    with Journal(path, study) as journal:
        table = small_study(**arguments, journal=journal).table
        blocks = len(journal)
    pd.testing.assert_frame_equal(table, undisturbed, check_exact=True)
    whole = path.read_bytes()
    for size in np.random.default_rng(0).integers(0, len(whole), 3):
        path.write_bytes(whole[:size])
        with Journal(path, study) as journal:
            before = len(journal)
            table = small_study(**arguments, journal=journal).table
            assert before < len(journal) == blocks
        pd.testing.assert_frame_equal(table, undisturbed, check_exact=True)
    assert path.read_bytes() == whole


def test_more_paths_repeat_no_block(tmp_path, undisturbed):
    path = tmp_path / "blocks"
    with Journal(path, {"paths": 1024, "seed": 0}) as journal:
        small_study(paths=1024, keep=1500, journal=journal)
        few = len(journal)
    Journal.continued(path, tmp_path / "more", {"paths": 3000})
    with Journal(tmp_path / "more", {"paths": 3000, "seed": 0}) as journal:
        assert len(journal) == few
        table = small_study(keep=1500, journal=journal).table
        names = list(journal._records._places)
    pd.testing.assert_frame_equal(table, undisturbed.table, check_exact=True)
    # no block in pairs that had run alone, or the other way round
    plain = [name.replace(", pairs", "") for name in names]
    assert len(set(plain)) == len(plain)


def test_journals_of_other_studies_and_damaged_ones_are_refused(tmp_path):
    path, study = tmp_path / "blocks", {"config": {"seed": 0, "lrs": [0.1]}, "version": "1"}
    with Journal(path, study) as journal:
        for block in range(3):
            journal.put(f"block {block}", {"a": np.arange(block + 2.0), "b": np.ones((2, block), dtype=np.float32)})
    with Journal(path, study) as journal:
        assert len(journal) == 3 and "block 1" in journal and "block 3" not in journal
        assert (journal.get("block 1")["a"] == np.arange(3.0)).all()
        assert journal.get("block 2")["b"].dtype == np.float32
    for other, sentence in (
        ({**study, "version": "2"}, "its version is '1', but '2' is asked for"),
        ({**study, "config": {"seed": 0, "lrs": [0.2]}}, "its config.lrs is .0.1., but .0.2. is asked for"),
    ):
        with pytest.raises(JournalError, match=sentence):
            Journal(path, other)
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 4
        path.write_bytes(bytes(damaged))
        with pytest.raises(JournalError, match="damaged at byte"):
            Journal(path, study)
        assert path.read_bytes() == damaged  # it is left as it was found


def test_a_full_disk_leaves_a_usable_journal(tmp_path, monkeypatch):
    journal = Journal(tmp_path / "blocks", {})
    journal.put("one", {"a": np.ones(5)})

    class FullDisk:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            self.file.write(data[:20])
            raise OSError(28, "No space left on device")

        def __getattr__(self, name):
            return getattr(self.file, name)

    file, journal._records._file = journal._records._file, FullDisk(journal._records._file)
    with pytest.raises(OSError, match="No space left"):
        journal.put("two", {"a": np.ones(5)})
    journal._records._file = file
    journal.put("three", {"a": np.ones(5)})
    journal.close()
    with Journal(tmp_path / "blocks", {}) as journal:
        assert "one" in journal and "two" not in journal and "three" in journal
