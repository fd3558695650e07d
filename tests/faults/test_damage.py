"""Files of a search that are damaged: found by a checksum, and refused by name or made again."""

import json
import sqlite3

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.results.conftest import make_record
from vpetl_ray.errors import CheckpointError, SearchError
from vpetl_ray.models.arch import get_arch
from vpetl_ray.models.build import build_model
from vpetl_ray.petl.adapter_file import load_adapter, read_header, save_adapter
from vpetl_ray.petl.attach import attach
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.tuning.rung_checkpoints import RungCheckpoints
from vpetl_ray.tuning.study_file import StudyFile
from vpetl_ray.tuning.study_format import FORMAT

__all__ = ["make_record"]
STATE = b"PK\x03\x04" + bytes(range(256)) * 20


@pytest.mark.parametrize("how", ["flipped", "cut off", "empty", "not ours"])
def test_a_damaged_checkpoint_is_never_used(tmp_path, caplog, how):
    kept = RungCheckpoints(tmp_path)
    kept.keep("t0003", STATE)
    assert kept.read("t0003") == STATE
    path = tmp_path / "t0003.pt"
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    wrong = {"flipped": content, "cut off": content[:900], "empty": b"", "not ours": b"text" * 9}
    path.write_bytes(wrong[how])
    assert kept.read("t0003") is None
    assert "t0003.pt is damaged: trial t0003 begins again" in caplog.text


def test_a_checkpoint_of_an_earlier_version_is_read(tmp_path):
    (tmp_path / "t0003.pt").write_bytes(STATE)
    assert RungCheckpoints(tmp_path).read("t0003") == STATE


@pytest.fixture
def study(tmp_path, make_record):
    path = tmp_path / "study.db"
    file = StudyFile(path)
    for number in range(30):
        assert file.add({"petl.patt.d_bottle": 8}, -0.1) == number
        file.close(make_record(number, 1000 + number))
    file._study._storage.remove_session()
    del file
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


def test_a_whole_study_has_its_records(study, make_record):
    records = [stored.record for stored in StudyFile(study).read()]
    assert records == [make_record(number, 1000 + number) for number in range(30)]


@pytest.mark.parametrize("how", ["torn page", "cut off", "text", "empty header"])
def test_a_damaged_study_is_refused_by_name(study, how):
    content = bytearray(study.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    wrong = {
        "torn page": content[:middle] + b"\x55" * 8192 + content[middle + 8192 :],
        "cut off": content[:middle],
        "text": b"no database " * 1000,
        "empty header": bytes(100) + content[100:],
    }
    study.write_bytes(wrong[how])
    with pytest.raises(SearchError, match=r"study\.db: the study is damaged"):
        StudyFile(study)
    assert study.read_bytes() == bytes(wrong[how])


def test_a_study_of_a_newer_version_is_refused_and_one_of_an_older_is_marked(study):
    def stored():
        with sqlite3.connect(study) as connection:
            query = "SELECT value_json FROM study_user_attributes WHERE key = 'format'"
            return [json.loads(row[0]) for row in connection.execute(query)]

    def change(command, *values):
        with sqlite3.connect(study) as connection:
            connection.execute(command, values)

    assert stored() == [FORMAT]
    change("UPDATE study_user_attributes SET value_json = ? WHERE key = 'format'", FORMAT + 1)
    before = study.read_bytes()
    sentence = f"was written by a newer version of vpetl_ray \\(format {FORMAT + 1}; this one reads"
    with pytest.raises(SearchError, match=sentence):
        StudyFile(study)
    assert study.read_bytes() == before
    change("DELETE FROM study_user_attributes WHERE key = 'format'")
    assert len(StudyFile(study).read()) == 30
    assert stored() == [FORMAT]


@pytest.mark.parametrize("text", ["1e999", "[" * 100_000, "{}", "x"], ids=lambda text: text[:5])
def test_a_format_that_is_no_number_is_damage(study, text):
    with sqlite3.connect(study) as connection:
        update = "UPDATE study_user_attributes SET value_json = ? WHERE key = 'format'"
        connection.execute(update, (text,))
    with pytest.raises(SearchError, match=r"study\.db: the study is damaged"):
        StudyFile(study)


def test_another_programs_database_is_refused_and_left_as_it_was(tmp_path):
    path = tmp_path / "study.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    before = path.read_bytes()
    with pytest.raises(SearchError, match="a database of something else, with 'songs'"):
        StudyFile(path)
    assert path.read_bytes() == before


def test_a_record_that_was_changed_is_refused_by_its_trial(study):
    with sqlite3.connect(study) as connection:
        query = "SELECT trial_user_attribute_id, value_json FROM trial_user_attributes "
        row, text = connection.execute(query + "WHERE key = 'record' LIMIT 1 OFFSET 7").fetchone()
        values = json.loads(text)
        values["top1"] = 99.0
        changed = (json.dumps(values), row)
        update = "UPDATE trial_user_attributes SET value_json = ? WHERE trial_user_attribute_id = ?"
        connection.execute(update, changed)
    with pytest.raises(SearchError, match="record of trial 7 does not match its checksum"):
        StudyFile(study).read()


@pytest.fixture(scope="module")
def model():
    return build_model(get_arch("swin3d_nano"), 3)


@pytest.fixture
def adapter(tmp_path, model):
    config = PetlConfig.from_dict({"methods": [{"name": "adapter", "d_bottle": 4}]})
    attached = attach(model, config, seed=0)
    path = tmp_path / "a.safetensors"
    save_adapter(path, attached)
    attached.detach()
    return path


def rewritten(path, tensors=None, **header):
    stored = {**read_header(path)}
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in stored.items()}
    kept = {k: v for k, v in {**texts, **header}.items() if v is not None}
    save_file(load_file(path) if tensors is None else tensors, path, kept)


def huge(path):
    config = read_header(path)["config"]
    config["methods"][0]["d_bottle"] = 10**9
    rewritten(path, config=json.dumps(config))


def with_nan(path):
    tensors = load_file(path)
    name = min(tensors)
    tensors[name] = torch.full_like(tensors[name], float("nan"))
    rewritten(path, tensors)


def other_shape(path):
    tensors = load_file(path)
    name = min(tensors)
    tensors[name] = torch.zeros(3, 5, 7000)
    rewritten(path, tensors)


def lying_length(path):
    path.write_bytes((2**60).to_bytes(8, "little") + path.read_bytes()[8:])


def as_int8(path):
    rewritten(path, {name: tensor.to(torch.int8) for name, tensor in load_file(path).items()})


HOSTILE_ADAPTERS = {
    "int8": (as_int8, "not stored as 16, 32 or 64-bit floats"),
    "config of a terabyte": (huge, "parameters, its tensors only"),
    "NaN": (with_nan, "1 tensor with NaN or infinite values"),
    "other shape": (other_shape, "shape"),
    "lying length": (lying_length, "cannot be read as safetensors"),
    "no config": (lambda path: rewritten(path, config=None), "its header is damaged"),
    "config that is no JSON": (lambda p: rewritten(p, config="{"), "its header is damaged"),
    "config nested without end": (lambda p: rewritten(p, config="[" * 99999), "header is damaged"),
    "config of another kind": (lambda path: rewritten(path, config="[1]"), "config is none"),
    "unknown method": (
        lambda p: rewritten(p, config='{"methods": [{"name": "os.system"}]}'), "config is none",
    ),
    "classes": (lambda path: rewritten(path, num_classes="many"), "its header is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_ADAPTERS)
def test_a_hostile_adapter_is_refused_and_leaves_the_model_alone(adapter, model, name):
    make, sentence = HOSTILE_ADAPTERS[name]
    make(adapter)
    before = sum(parameter.numel() for parameter in model.parameters())
    with pytest.raises(CheckpointError, match=sentence) as caught:
        load_adapter(adapter, model)
    assert str(adapter) in str(caught.value) or name == "other shape"
    assert sum(parameter.numel() for parameter in model.parameters()) == before
