import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vpetl_ray.errors import SearchError
from vpetl_ray.results import records as records_module
from vpetl_ray.results.records import (
    EpochRow,
    TrialRecord,
    TrialState,
    read_trials,
    write_trials,
)

TYPES = {
    "petl.patt.targets": str,
    "petl.patt.d_bottle": int,
    "petl.patt.scale": float,
    "petl.adapter.enabled": bool,
}
VALUES = {
    str: st.text(max_size=8),
    int: st.integers(-(2**62), 2**62),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
}

finite = st.none() | st.floats(0, 100)
any_float = st.none() | st.floats()
rows = st.builds(EpochRow, epoch=st.integers(1, 300), top1=any_float, loss=any_float)


@st.composite
def trials(draw: st.DrawFn) -> list[TrialRecord]:
    return [
        TrialRecord(
            id=f"t{number:04d}",
            number=number,
            state=draw(st.sampled_from(TrialState)),
            trainable_params=draw(st.integers(0, 10**12)),
            top1=draw(any_float),
            loss=draw(any_float),
            test_top1=draw(finite),
            epochs=draw(st.integers(0, 300)),
            seconds=draw(st.floats(0, 1e6)),
            group=draw(st.none() | st.integers(0, 64)),
            config={path: draw(st.none() | VALUES[kind]) for path, kind in TYPES.items()},
            curve=tuple(draw(st.lists(rows, max_size=4))),
            reason=draw(st.none() | st.text(max_size=20)),
            name=draw(st.none() | st.text(max_size=20)),
        )
        for number in range(draw(st.integers(0, 4)))
    ]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(written=trials())
def test_a_table_gives_back_the_records_and_their_order(
    tmp_path: Path, written: list[TrialRecord]
) -> None:
    write_trials(tmp_path / "trials.parquet", written, TYPES)
    assert read_trials(tmp_path / "trials.parquet") == written


@settings(max_examples=60, deadline=None)
@given(written=trials())
def test_json_gives_back_the_records(written: list[TrialRecord]) -> None:
    for record in written:
        text = json.dumps(record.to_dict(), allow_nan=False)
        assert TrialRecord.from_dict(json.loads(text)) == record


def test_the_schema_is_the_same_before_the_first_trial(tmp_path: Path, make_record) -> None:
    full = make_record(0, config=dict(zip(TYPES, ("kv", 8, 0.8, True), strict=True)))
    bare = make_record(1, config=dict.fromkeys(TYPES), top1=None, group=None, curve=())
    schemas = []
    for number, content in enumerate(([], [bare], [full, bare])):
        write_trials(tmp_path / f"{number}.parquet", content, TYPES)
        schemas.append(pq.read_schema(tmp_path / f"{number}.parquet"))
    assert schemas[0].equals(schemas[1])
    assert schemas[0].equals(schemas[2])


def test_columns_stand_in_the_promised_order(tmp_path: Path, make_record) -> None:
    write_trials(tmp_path / "trials.parquet", [make_record(0)], ["training.learning_rate"])
    names = pq.read_schema(tmp_path / "trials.parquet").names
    assert names[:8] == [
        "id", "number", "state", "trainable_params", "top1", "epochs", "seconds", "group",
    ]  # fmt: skip
    assert names[8:14] == ["loss", "test_top1", "name", "reason", "at_seconds", "at_epochs"]
    assert names[14] == "training.learning_rate"
    assert names[-1] == "curve"


def test_a_choice_between_numbers_and_words_comes_back_as_it_was(
    tmp_path: Path, make_record
) -> None:
    scales = [0.1, "learned", None, 2, True]
    written = [make_record(i, config={"petl.adapter.scale": s}) for i, s in enumerate(scales)]
    write_trials(tmp_path / "trials.parquet", written, ["petl.adapter.scale"])
    read = [
        record.config["petl.adapter.scale"] for record in read_trials(tmp_path / "trials.parquet")
    ]
    assert read == scales
    assert [type(value) for value in read] == [type(value) for value in scales]


def test_words_that_look_like_numbers_stay_words(tmp_path: Path, make_record) -> None:
    written = [make_record(i, config={"petl.patt.stages": s}) for i, s in enumerate(["1", "1+3"])]
    write_trials(tmp_path / "trials.parquet", written, {"petl.patt.stages": str})
    assert read_trials(tmp_path / "trials.parquet") == written


def test_a_loss_that_is_not_finite_is_not_measured() -> None:
    row = EpochRow(epoch=1, top1=10.0, loss=float("nan"), train_loss=float("inf"))
    assert (row.top1, row.loss, row.train_loss) == (10.0, None, None)


def test_a_failed_write_leaves_the_old_table_and_nothing_else(
    tmp_path: Path, make_record, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "trials.parquet"
    write_trials(path, [make_record(0)], [])

    def half_a_table(_table: object, target: Path) -> None:
        target.write_bytes(b"PAR1 and then")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records_module.pq, "write_table", half_a_table)
    with pytest.raises(SearchError, match=r"trials.parquet: cannot be written: No space left"):
        write_trials(path, [make_record(0), make_record(1)], [])
    assert len(read_trials(path)) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["trials.parquet"]


@pytest.mark.parametrize("content", [None, b"", b"not a table"], ids=["missing", "empty", "text"])
def test_what_is_no_table_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "trials.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SearchError, match=r"trials\.parquet: cannot be read as a table of trials"):
        read_trials(path)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("id", pa.array([1])),
        ("id", pa.array([None], pa.string())),
        ("trainable_params", pa.array(["many"])),
        ("trainable_params", pa.array([None], pa.int64())),
        ("seconds", pa.array([None], pa.float64())),
        ("name", pa.array([1])),
        ("curve", pa.array([1])),
        ("latency_ms", pa.array(["fast"])),
        ("petl.patt.targets", pa.array([["q"]])),
        ("petl.patt.targets", pa.array([{"q": 1}])),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value.type),
)
def test_a_table_with_other_columns_is_refused_by_column(
    tmp_path: Path, make_record, column: str, values: pa.Array
) -> None:
    path = tmp_path / "trials.parquet"
    write_trials(path, [make_record(0)], TYPES, costs=["latency_ms"])
    table = pq.read_table(path)
    pq.write_table(
        table.set_column(table.column_names.index(column), column, values), path, store_schema=True
    )
    with pytest.raises(SearchError, match=f"not a table of trials, its column {column} "):
        read_trials(path)


def test_a_record_of_another_version_is_refused_by_trial() -> None:
    with pytest.raises(SearchError, match="trial t0003 cannot be read"):
        TrialRecord.from_dict({"id": "t0003", "number": 3, "colour": "blue"})
