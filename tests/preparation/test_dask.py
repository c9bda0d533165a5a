"""Photos are checked on the workers of a Dask scheduler: the data set of one process."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from making import class_folders, jpeg, picture, run, tree_digest
from test_time_limit import needs_timers, slow_photo

from stacked_ram.preparation import dask_workers
from stacked_ram.preparation.catalogue import Catalogue
from stacked_ram.preparation.checked import CheckPlan
from stacked_ram.preparation.dask_workers import DaskWorkers
from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.pipeline import prepare
from stacked_ram.preparation.pool import check_all
from stacked_ram.runtime.errors import UserError

distributed = pytest.importorskip("distributed", reason="pip install -r requirements-dask.txt")


@pytest.fixture(scope="module")
def cluster() -> Iterator[distributed.LocalCluster]:
    """Two workers, each a process of one thread that is started again when it dies."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0"
    ) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good photos, copies of them, and files that cannot be used."""
    root = class_folders(tmp_path_factory.mktemp("source") / "in", {"a": 70, "b": 70})
    picture(3).save(root / "b" / "copy.png")
    (root / "a" / "cut.jpg").write_bytes(jpeg(picture(500))[:400])
    (root / "b" / "empty.jpg").touch()
    picture(501).rotate(90, expand=True).save(root / "b" / "tall.webp")
    return root


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    dest = tmp_path_factory.mktemp("whole") / "set"
    run(source, dest)
    return tree_digest(dest)


def with_dask(source: Path, dest: Path, cluster: distributed.LocalCluster) -> None:
    prepare(PrepareOptions(source=source, dest=dest, dask=cluster.scheduler_address))


def test_the_data_set_is_that_of_one_process(source, whole, cluster, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # the workers have another current folder
    with_dask(source, Path("set"), cluster)
    assert tree_digest(tmp_path / "set") == whole
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_worker_is_killed_on_the_way(source, whole, cluster, tmp_path, monkeypatch) -> None:
    taken, take = itertools.count(), Catalogue.take

    def take_and_kill(catalogue: Catalogue, results: list) -> None:
        take(catalogue, results)
        if next(taken) == 1:  # a few chunks are in the workers' hands
            os.kill(cluster.workers[0].pid, signal.SIGKILL)

    monkeypatch.setattr(Catalogue, "take", take_and_kill)
    with_dask(source, tmp_path / "set", cluster)
    assert next(taken) > 2
    assert tree_digest(tmp_path / "set") == whole


@needs_timers
def test_a_slow_photo_is_given_up(cluster, tmp_path: Path) -> None:
    photos = sorted(class_folders(tmp_path / "in", {"a": 20}).rglob("*.jpg"))
    photos.insert(5, slow_photo(tmp_path / "in" / "slow.jpg"))
    plan = CheckPlan(tmp_path / "decoded", 64, 92, 10**8, seconds=0.5)
    with DaskWorkers(cluster.scheduler_address, tmp_path, tmp_path / "in") as workers:
        found = [result for part in check_all(enumerate(photos), plan, workers) for result in part]
    assert sorted(number for number, _ in found) == list(range(21))
    assert {number: checked.problem for number, checked in found if checked.problem} == {
        5: "too_slow"
    }


def test_workers_that_do_not_see_the_photos_are_refused(cluster, tmp_path: Path) -> None:
    with (
        DaskWorkers(cluster.scheduler_address, tmp_path, tmp_path / "elsewhere") as workers,
        pytest.raises(UserError, match=r"does not see the folder .*elsewhere: SOURCE and"),
    ):
        workers.start()
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("workers", "message"),
    [(1, "not a process of one thread.*start it with"), (0, "has no workers; start some")],
)
def test_clusters_that_do_not_fit_are_refused(
    source: Path, tmp_path: Path, workers: int, message: str
) -> None:
    with (
        distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=False, dashboard_address=":0"
        ) as cluster,
        pytest.raises(UserError, match=message),
    ):
        with_dask(source, tmp_path / "set", cluster)
    assert not [*tmp_path.iterdir()]


def test_a_worker_of_other_versions_is_refused(cluster, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(dask_workers, "__version__", "0.0")
    with (
        DaskWorkers(cluster.scheduler_address, tmp_path, tmp_path) as workers,
        pytest.raises(UserError, match=r"has stacked_ram .*, and this machine 0\.0: install"),
    ):
        workers.start()


def test_without_a_scheduler(source: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(dask_workers, "_CONNECT", 0.2)
    with pytest.raises(UserError, match="no Dask scheduler answers there"):
        prepare(PrepareOptions(source=source, dest=tmp_path / "set", dask="tcp://127.0.0.1:9"))
    assert not [*tmp_path.iterdir()]


def test_dask_and_processes_of_this_machine() -> None:
    with pytest.raises(UserError, match="--dask uses the workers of its scheduler"):
        PrepareOptions(source="in", dest="out", dask="tcp://127.0.0.1:8786", workers=2)
