"""Searches that earlier versions of this code were killed in go on under today's.

Their states are real: `make_format` searched with the code of each version. A search that goes on
takes a minute, so the usual tests read what is stored, and `make faults` goes on with every one.
"""

import dataclasses
import shutil
import sqlite3
from pathlib import Path

import pytest

from tests.faults.make_format import FORMATS, WORK
from tests.faults.searches import finished, trials_of
from tests.faults.test_driver import count_faults
from vpetl_ray.errors import SpecError
from vpetl_ray.results.records import TrialState
from vpetl_ray.results.search_folder import read_search
from vpetl_ray.results.waiting_records import WAITING_FILE, read_waiting
from vpetl_ray.results_folder import check_folder
from vpetl_ray.spec.load import load_spec
from vpetl_ray.tuning.rung_checkpoints import RungCheckpoints
from vpetl_ray.tuning.study_file import StudyFile
from vpetl_ray.tuning.study_format import FORMAT

pytestmark = pytest.mark.timeout(400)
NAMES = sorted(path.name for path in FORMATS.iterdir())


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def out(name, tmp_path, videos):
    """A copy of a stored state, in a folder as it was in."""
    folder = tmp_path / "out"
    shutil.copytree(FORMATS / name, folder)
    for path in (*folder.glob("*.yaml"), *folder.glob("*.jsonl"), *folder.glob("*.json")):
        path.write_text(path.read_text().replace(WORK, str(tmp_path)))
    (tmp_path / "videos").symlink_to(videos)
    return folder


def records(folder):
    """Final records by id; what is measured at the very end left out."""
    rows = StudyFile(folder / "study.db").read()
    found = [row.record for row in rows if row.record is not None and not row.is_open]
    return {record.id: dataclasses.replace(record, test_top1=None) for record in found}


def test_a_stored_state_is_read(out):
    spec = load_spec(out / "spec.yaml")
    check_folder(out, spec, resume=True)
    rows = StudyFile(out / "study.db").read()
    ended = [row.record for row in rows if row.record is not None]
    assert sum(record.state is TrialState.COMPLETE for record in ended) >= 1
    assert all(row.values for row in rows if row.record is not None or row.number < 3)
    shown = read_search(out)  # as `report` and `compare` do; tables are a moment behind the study
    assert {record.id for record in shown.records} & set(records(out))
    kept = RungCheckpoints(out / "paused")
    paused = sorted(path.stem for path in (out / "paused").glob("*.pt"))
    assert all(kept.read(trial) for trial in paused)
    assert {f"t{row.number:04d}" for row in rows} >= set(paused)
    if (out / WAITING_FILE).exists():
        assert read_waiting(out, None).info.name == "earlier"


def test_there_is_a_state_of_this_format_and_one_from_before_there_was_a_number():
    found = set()
    for name in NAMES:
        with sqlite3.connect(f"file:{FORMATS / name}/study.db?mode=ro", uri=True) as database:
            query = "SELECT value_json FROM study_user_attributes WHERE key = 'format'"
            found.add(int(next(iter(database.execute(query)), (0,))[0]))
    assert found == set(range(FORMAT + 1))


def test_a_state_of_a_newer_format_is_refused_before_anything_is_done(tmp_path, videos):
    folder = tmp_path / "out"
    shutil.copytree(FORMATS / NAMES[-1], folder)
    spec = folder / "spec.yaml"
    spec.write_text(spec.read_text().replace(f"{WORK}/videos", str(videos)))
    with sqlite3.connect(folder / "study.db") as database:
        database.execute("UPDATE study_user_attributes SET value_json = 99 WHERE key = 'format'")
    before = {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
    with pytest.raises(SpecError, match=r"study\.db: was written by a newer version .*format 99"):
        check_folder(folder, load_spec(spec), resume=True)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.faults
def test_a_search_of_an_earlier_version_goes_on_to_its_end(
    out, name, start, tmp_path, record_fault
):
    known = records(out)
    search = start("--out", "out", "--resume", spec="out/spec.yaml")
    assert search.wait() == 0, search.said
    after = records(out)
    lost, doubled, is_told = count_faults(out, set(known))
    record_fault("an earlier version's search", lost=lost, doubled=doubled)
    assert (lost, doubled, is_told) == (0, 0, True)
    assert {trial: after[trial] for trial in known} == known
    assert len(finished(out)) == 12
    table = trials_of(out)
    assert set(table.state) <= {s.value for s in TrialState} - {TrialState.FAILED.value}
    assert not list((out / "paused").glob("*"))
    assert "Traceback" not in search.said
