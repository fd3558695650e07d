"""A model in use: loaded from wherever it is named, it says what the search's evaluation said."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import vpetl_ray
from vpetl_ray.data.clip_store import ClipStore
from vpetl_ray.data.config import ViewSpec
from vpetl_ray.errors import CheckpointError, DataError
from vpetl_ray.inference.find import choose_member, find_weights, read_front
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
