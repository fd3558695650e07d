"""Object storage that fails for a while: a real S3 server behind a door that can be shut."""

import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing

import pytest

from tests.faults.faulty_proxy import FaultyProxy
from tests.faults.searches import finished, trials_of, wait_until
from tests.s3_server import KEYS as S3_KEYS
from tests.s3_server import s3_server
from vpetl_ray.data.mirror import Mirror, download_results
from vpetl_ray.data.results_store import ResultsStore
from vpetl_ray.data.shared_store import SharedStore
from vpetl_ray.errors import DataError
from vpetl_ray.tuning.study_file import StudyFile

pytestmark = pytest.mark.timeout(120)
KEYS = {**S3_KEYS, "AWS_MAX_ATTEMPTS": "1"}


@pytest.fixture(scope="module")
def s3():
    """The address of a server with a bucket."""
    with s3_server("lab") as address:
        yield address


@pytest.fixture
def door(s3, monkeypatch, tmp_path):
    """What stands in front of it, and answers as its `mode` says."""
    with FaultyProxy(s3) as proxy:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": proxy.uri}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("VPETL_CACHE", str(tmp_path / "one"))
        yield proxy


@pytest.fixture
def url(tmp_path):
    return f"s3://lab/{tmp_path.name}"


def write(folder, *rows):
    folder.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(folder / "study.db")) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE IF NOT EXISTS trials (id TEXT)")
        database.executemany("INSERT INTO trials VALUES (?)", [(row,) for row in rows])
        database.commit()
    (folder / "front.json").write_text(json.dumps(rows))


def rows_of(folder):
    with closing(sqlite3.connect(folder / "study.db")) as database:
        return [row[0] for row in database.execute("SELECT id FROM trials")]


def copied(url):
    """What is at an address."""
    folder, keep = download_results(url)
    with keep:
        return rows_of(folder)


def on_another_machine(url, monkeypatch, tmp_path):
    monkeypatch.setenv("VPETL_CACHE", str(tmp_path / "two"))
    mirror = Mirror(url)
    assert mirror.fetch()
    return mirror


def test_a_copy_that_is_cut_off_leaves_the_last_whole_state(
    door, url, monkeypatch, tmp_path, record_fault
):
    """At any request of it; and what was written meanwhile is copied when it is back."""
    mirror = Mirror(url)
    assert not mirror.fetch()
    write(mirror.folder, "t0000")
    mirror.finish(0)
    for after in range(1, 4):
        write(mirror.folder, f"t{after:04d}")
        asked = door.num_asked
        door.fails_after = asked + after
        with pytest.raises(DataError, match=r"the last results are not at s3://lab/.* they are in"):
            mirror.finish(0)
        door.fails_after = None
        assert copied(url) == ["t0000"]
    began = time.monotonic()
    mirror.finish(0)
    every = [f"t{number:04d}" for number in range(4)]
    found = rows_of(on_another_machine(url, monkeypatch, tmp_path).folder)
    record_fault(
        "object storage away in a copy", injected=3, lost=len(set(every) - set(found)),
        doubled=len(found) - len(set(found)), seconds=[time.monotonic() - began],
    )  # fmt: skip
    assert found == every


def test_who_goes_on_takes_what_is_furthest(door, url, monkeypatch, tmp_path):
    """What was never copied, on the machine that has it; what another machine did since, else."""
    mirror = Mirror(url)
    mirror.fetch()
    write(mirror.folder, "t0000")
    mirror.finish(0)
    write(mirror.folder, "t0001")  # and its driver is killed
    again = Mirror(url)
    assert again.fetch()
    assert rows_of(again.folder) == ["t0000", "t0001"]
    other = on_another_machine(url, monkeypatch, tmp_path)
    write(other.folder, "t0001 of two")
    other.finish(0)
    monkeypatch.setenv("VPETL_CACHE", str(tmp_path / "one"))
    third = Mirror(url)
    assert third.fetch()
    assert rows_of(third.folder) == ["t0000", "t0001 of two"]


class Killed(BaseException):
    """SIGKILL, as far as the lines after it are concerned."""


def test_a_driver_killed_between_the_list_and_its_own_note_of_it_loses_nothing(
    door, url, monkeypatch
):
    mirror = Mirror(url)
    mirror.fetch()
    write(mirror.folder, "t0000")
    mirror.finish(0)

    def kill(*_):
        write(mirror.folder, "t0002")  # finished while the list was written
        raise Killed

    write(mirror.folder, "t0001")
    monkeypatch.setattr(ResultsStore, "_remove_databases", kill)
    with pytest.raises(Killed):
        mirror._push()
    again = Mirror(url)
    assert again.fetch()
    assert rows_of(again.folder) == ["t0000", "t0001", "t0002"]


def test_databases_that_no_list_names_are_removed(door, url):
    mirror = Mirror(url)
    mirror.fetch()
    for number in range(5):
        write(mirror.folder, f"t{number:04d}")
        mirror.finish(0)
    names = [
        name for name in ResultsStore(url, named="x").state().objects.values() if ".db" in name
    ]
    assert len(names) == 1
    store = SharedStore(url)
    listed = [f.base_name for f in store._fs.get_file_info(_all(store._path("results")))]
    assert sum("study.db" in name for name in listed) <= 2


def _all(folder):
    from pyarrow import fs  # noqa: PLC0415

    return fs.FileSelector(folder, recursive=True)


def test_results_of_an_earlier_version_are_read(door, url, tmp_path):
    """Which copied each file under its own name, with the list of their sizes."""
    write(tmp_path / "old", "t0000")
    SharedStore(url).push("results", tmp_path / "old")
    assert copied(url) == ["t0000"]
    mirror = Mirror(url)
    assert mirror.fetch()
    write(mirror.folder, "t0001")
    mirror.finish(0)
    assert copied(url) == ["t0000", "t0001"]


@pytest.mark.parametrize("mode", ["500", pytest.param("hang", marks=pytest.mark.faults)])
def test_a_storage_that_fails_at_the_start_is_one_sentence(door, url, mode):
    door.mode = mode
    began = time.monotonic()
    with pytest.raises(DataError, match=f"^{url}: ") as caught:
        Mirror(url).fetch()
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 60


def test_after_ctrl_c_a_storage_that_hangs_is_given_up_in_time(door, url):
    mirror = Mirror(url)
    mirror.fetch()
    write(mirror.folder, "t0000")
    door.mode = "hang"
    began = time.monotonic()
    with pytest.raises(DataError, match=r"not copied in 1 seconds; they are in .*, and copied by"):
        mirror.finish(1, at_most=1)
    assert time.monotonic() - began < 5


_GIVES_UP = """
import sys
from vpetl_ray.data.mirror import Mirror
from vpetl_ray.errors import DataError
from vpetl_ray.exits import fail, run_door

def command(url: str) -> None:
    mirror = Mirror(url)
    mirror.fetch()
    mirror.folder.mkdir(parents=True, exist_ok=True)
    (mirror.folder / "about.json").write_text("{}")
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        mirror.finish(1, at_most=1)
    except DataError as error:
        fail(str(error), 130)

run_door(command)
"""


def test_a_process_ends_although_its_storage_hangs(door, url):
    """pyarrow would wait for the request that is under way, half a minute."""
    process = subprocess.Popen(
        [sys.executable, "-c", _GIVES_UP, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    door.mode = "hang"
    _, said = process.communicate("\n", timeout=20)
    assert process.returncode == 130, said
    assert "not copied in 1 seconds" in said


def test_files_that_come_and_go_are_no_failure(door, url):
    """As the temporary ones do of whatever is written in the folder."""
    mirror = Mirror(url)
    write(mirror.folder, "t0000")
    is_over = threading.Event()

    def come_and_go():
        while not is_over.is_set():
            (mirror.folder / "x").touch()
            (mirror.folder / "x").unlink()

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        until = time.monotonic() + 1
        while time.monotonic() < until:
            mirror._changed()
    finally:
        is_over.set()
        other.join()


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_search_outlives_its_storage(start, door, url, tmp_path, record_fault):
    """Away in the middle, and its driver killed: --resume has what was finished meanwhile."""
    words = ("--out", url, "--set", "training.epochs=60")
    search = start(*words, "--trials", 6)
    search.wait_for(r"t0000 complete")
    store = ResultsStore(url, named="x")
    wait_until(store.state, 60)
    door.mode = "500"
    search.wait_for(r"t0003 complete")
    search.strike(signal.SIGKILL)
    search.process.wait(10)
    door.mode = "pass"
    began = time.monotonic()
    again = start(*words, "--trials", 6, "--resume")
    again.wait_for(r"t0004 complete")
    seconds = time.monotonic() - began
    assert again.wait() == 0, again.said
    known = {"t0000", "t0001", "t0002", "t0003"}
    folder, _keep = download_results(url)
    lost = known - set(finished(folder))
    ids = list(trials_of(folder).id)
    record_fault("object storage away, driver killed", lost=len(lost),
                 doubled=len(ids) - len(set(ids)), seconds=[seconds])  # fmt: skip
    assert not lost
    assert not any(f"{name} complete" in again.said for name in known)
    assert len(finished(folder)) == 6
    assert StudyFile(folder / "study.db").read()
    assert f"results are at {url}" in again.said

    # All is done, and the storage is away for good: what is finished is on this machine.
    door.mode = "hang"
    third = start(*words, "--trials", 7, "--resume")
    third.process.wait(200)
    assert third.process.returncode == 2
    assert f"{url}: " in third.said
    assert "Traceback" not in third.said
