"""A model in use: loaded from wherever it is named, it says what the search's evaluation said."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import vpetl_ray
from vpetl_ray.confirm_source import plan_confirmation
from vpetl_ray.data.clip_store import ClipStore
from vpetl_ray.data.config import ViewSpec
from vpetl_ray.errors import CheckpointError, DataError, SpecError, VpetlError
from vpetl_ray.finetune_source import Request, choose
from vpetl_ray.inference.find import choose_member, find_adapter, find_weights, read_front
from vpetl_ray.petl.adapter_file import read_safetensors
from vpetl_ray.training.evaluation import evaluate, evaluate_views

pytestmark = pytest.mark.timeout(280)  # the first one waits for the search


@pytest.fixture(scope="module")
def model(search):
    return vpetl_ray.load(f"{search}@best", device="cpu")


def store_of(cache, segments):
    stores = [ClipStore.open(folder) for folder in (cache / "clips").iterdir() if folder.is_dir()]
    return next(s for s in stores if s.manifest.clip_spec.test_segments == segments)


def test_labels_are_those_of_the_searchs_evaluation(model, search, videos, cache):
    test = store_of(cache, 1).split("test", ViewSpec(size=32, train_crop="centre", flip=0))
    expected = evaluate(model.attached.model, test, keep_predictions=True)
    files = [videos / test.video(i) for i in range(len(test))]
    answers = list(model.predict_many(files, batch_size=3))
    assert [a.label for a in answers] == [model.classes[k] for k in expected.predictions]
    right = sum(a.label == Path(a.video).parent.name for a in answers)
    assert 100 * right / len(files) == choose_member(search, "best")["test_top1"]
    assert model.classes == ("left", "right")
    assert sum(answers[0].probabilities) == pytest.approx(1)
    alone = model.predict(files[0]).probabilities
    assert alone == pytest.approx(answers[0].probabilities, abs=1e-6), "products of another size"


@pytest.mark.usefixtures("trained_again")  # which decodes all views
def test_all_views_are_those_of_final_figures(model, videos, cache):
    test = store_of(cache, 4).split("test", ViewSpec(size=32, train_crop="centre", flip=0))
    expected = evaluate_views(model.attached.model, test, keep_predictions=True)
    files = [videos / test.video(i) for i in range(len(test))]
    answers = list(model.predict_many(files, views="all"))
    assert model.clips.all_views(files[0]).shape == (4, 4, 32, 32, 3)
    assert [a.label for a in answers] == [model.classes[k] for k in expected.predictions]


def test_a_folder_needs_neither_ray_nor_mlflow(search, videos, tmp_path):
    file = next(videos.rglob("*.mp4"))
    code = (
        "import sys, vpetl_ray, vpetl_ray.predict, vpetl_ray.export as door\n"
        "from pathlib import Path\n"
        f"print(vpetl_ray.load({str(search)!r}).predict({str(file)!r}).label)\n"
        f"door.export({str(search)!r}, door.Format.TORCH, Path({str(tmp_path / 'm.pt2')!r}))\n"
        "print(sorted({'ray', 'mlflow', 'optuna', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    label, *_, loaded = done.stdout.split()
    assert (tmp_path / "m.pt2").stat().st_size > 100_000
    assert label in {"left", "right"}
    assert loaded == "[]"


def test_files_and_folders_from_a_terminal(run, search, videos, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    folder = videos / "test" / "left"
    done = run("predict", search, folder, broken, "--top", 1)
    assert done.returncode == 1
    assert done.stderr.startswith(f"skipped: {broken}: it cannot be opened as a video")
    lines = done.stdout.splitlines()
    assert [line.split(": ")[0] for line in lines] == sorted(map(str, folder.glob("*.mp4")))
    assert lines[0].endswith("%")

    file = folder / "00.mp4"
    done = run("predict", f"{search}@knee", file, "--json", "--all-views")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["video"] == str(file)
    assert set(answer["top"]) == {"left", "right"}

    empty = tmp_path / "empty"
    empty.mkdir()
    for words, sentence in {
        (search, empty): "has no videos",
        (f"{search}@t9999", file): "there is no such model; there are best, knee, smallest, t",
        ("nowhere", file): "is no folder or file here; a registered model is named models:/nowhere",
        (tmp_path, file): "is neither a search's results folder",
    }.items():
        done = run("predict", *words)
        assert done.returncode == 2, done
        assert sentence in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_video_that_cannot_be_read_is_named(model, tmp_path):
    with pytest.raises(DataError, match=r"gone\.mp4: there is no such file"):
        model.predict(tmp_path / "gone.mp4")


def test_the_words_of_a_front(search):
    front = read_front(search)
    assert choose_member(search, "smallest") == front[0]
    assert choose_member(search, "best")["top1"] == max(entry["top1"] for entry in front)
    knee = json.loads((search / "front.json").read_text())["knee"]
    assert choose_member(search, "knee")["id"] == knee
    adapter = search / "adapters" / f"{knee}.safetensors"
    assert vpetl_ray.load(adapter).adapter == adapter
    assert vpetl_ray.load(f"{search}@{knee}").facts.trial == knee


def test_another_backbone_is_refused(model, search, tmp_path):
    other = tmp_path / "other.safetensors"
    tensors = load_file(model.weights)
    tensors["norm.weight"] = tensors["norm.weight"] + 1
    with torch.no_grad():
        save_file(tensors, other)
    with pytest.raises(
        CheckpointError, match="was trained on the backbone demo with the hash"
    ) as e:
        vpetl_ray.load(search, backbone=other)
    assert str(other) in str(e.value)
    assert vpetl_ray.load(search, backbone=model.weights).classes == model.classes


def test_a_missing_backbone_is_named(tmp_path, monkeypatch):
    adapter = tmp_path / "adapter.safetensors"
    with pytest.raises(CheckpointError, match=r"needs the big one, the file swin\.pth, which was"):
        find_weights("/gone/swin.pth", adapter, what="the big one")
    elsewhere = tmp_path / "weights"
    elsewhere.mkdir()
    (elsewhere / "swin.pth").touch()
    monkeypatch.setenv("VPETL_WEIGHTS", f"/nowhere:{elsewhere}")
    assert find_weights("/gone/swin.pth", adapter) == elsewhere / "swin.pth"
    (tmp_path / "backbone.safetensors").touch()
    assert find_weights("/gone/swin.pth", adapter) == tmp_path / "backbone.safetensors"


def test_adapters_are_small_and_say_what_they_need(search):
    for file in (search / "adapters").glob("*.safetensors"):
        assert file.stat().st_size < 300_000
        facts = vpetl_ray.load(file).facts
        assert (facts.weights, facts.data, facts.precision) == ("demo", "folder", "fp32")


NESTED = "[" * 99_999
MEMBER = {"id": "t0000", "trainable_params": 258, "top1": 50.0, "config": {}}
WRONG_FRONTS = {
    "nested": (NESTED, "cannot be read"),
    "nested inside": ('{"front": ' + NESTED, "cannot be read"),
    **{str(front): ({"front": front}, "is no front") for front in (3, {"a": 1}, "abc", None)},
    "number": ({"front": [1]}, "a member must be an object, got 1"),
    "name": ({"front": [MEMBER], "name": {"a": 1}}, "its name must be text"),
    **{
        f"{key} {str(value)[:20]}": (
            {"front": [{**MEMBER, key: value}]},
            rf"front\.json: a member's {key} must be .*, got ",
        )
        for key, values in {
            "id": ([1], 7, "../../etc/passwd", "[/x]"),
            "trainable_params": ("many", None, 10**4000),
            "top1": (None, math.nan, "x", True),
            "test_top1": ("x", math.inf),
            "name": (5, ["x"]),
            "config": (None, [1], {"a": [1]}),
        }.items()
        for value in values
    },
}


@pytest.mark.parametrize("name", WRONG_FRONTS)
def test_a_wrong_front_is_refused_by_every_door_that_reads_it(name, search, tmp_path):
    document, message = WRONG_FRONTS[name]
    for file in ("spec.yaml", "trials.parquet"):
        shutil.copy(search / file, tmp_path)
    text = document if isinstance(document, str) else json.dumps(document)
    (tmp_path / "front.json").write_text(text)
    readers = (
        lambda: find_adapter(tmp_path),
        lambda: choose(Request(source=str(tmp_path))),
        lambda: plan_confirmation(tmp_path),
    )
    for read in readers:
        with pytest.raises(CheckpointError, match=message):
            read()
    with pytest.raises(VpetlError, match=r"front\.json"):
        choose(Request(source=str(tmp_path / "front.json")))


@pytest.mark.parametrize("knee", [{}, {"knee": "t0009"}, {"knee": [1]}])
def test_a_front_without_its_knee_is_refused_where_the_knee_is_asked_for(knee, tmp_path):
    (tmp_path / "front.json").write_text(json.dumps({"front": [MEMBER], **knee}))
    assert choose_member(tmp_path, "best")["id"] == "t0000"
    with pytest.raises(CheckpointError, match="its knee must be a member of its front"):
        choose_member(tmp_path, "knee")


@pytest.mark.parametrize("device", ["nosuch", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_refused(device, tmp_path):
    adapter = tmp_path / "a.safetensors"
    adapter.touch()
    with pytest.raises(SpecError, match=f"device: must be one that torch has here.*{device}"):
        vpetl_ray.load(adapter, device=device)


def test_names_that_a_terminal_would_obey_are_shown_escaped(run, search, videos, tmp_path):
    file = tmp_path / b"clip\xe9.mp4".decode("utf-8", "surrogateescape")
    shutil.copy(next(videos.rglob("*.mp4")), file)
    about, tensors = read_safetensors(find_adapter(search))
    names = ["\x1b[2Jleft\n", "[/right]"]
    about["extra"] = json.dumps({**json.loads(about["extra"]), "classes": names})
    save_file(tensors, tmp_path / "a.safetensors", about)
    done = run(
        "predict", tmp_path / "a.safetensors", file, "--device", "cpu",
        PYTHONIOENCODING="utf-8:strict",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    assert line.startswith(f"{tmp_path}/clip\\udce9.mp4: ")
    assert "\\x1b[2Jleft\\n " in line
    assert "[/right] " in line
