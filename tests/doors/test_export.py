"""Exports are the model: the same logits on 32 real clips, with LoRA merged."""

import json
import re

import pytest
import torch
from method_examples import EXAMPLES
from safetensors.torch import save_file

import vpetl_ray
from vpetl_ray.data.config import DataConfig
from vpetl_ray.data.demo import DEMO_CHECKPOINT
from vpetl_ray.errors import CheckpointError
from vpetl_ray.inference.export_check import TOLERANCE, Agreement, compare, real_clips
from vpetl_ray.inference.export_formats import FORMATS, SUFFIXES, run_original
from vpetl_ray.inference.whole_model import MERGED_METHODS, merge_what_can_be
from vpetl_ray.models.arch import get_arch
from vpetl_ray.models.build import build_model
from vpetl_ray.models.checkpoints import load_backbone
from vpetl_ray.petl.adapter_file import read_safetensors, save_adapter
from vpetl_ray.petl.attach import attach, make_placements
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.merge import Mergeable
from vpetl_ray.petl.method import Branch
from vpetl_ray.training.model_facts import DataFacts, adapter_facts

pytestmark = pytest.mark.timeout(200)
MOTIONS = 12


def make_adapter(path, names):
    """Write an adapter as a search would, of methods whose tensors are random, not as at start."""
    model = build_model(get_arch("swin3d_nano"), MOTIONS)
    load_backbone(model, DEMO_CHECKPOINT)
    methods = tuple(EXAMPLES[name] for name in names)
    attached = attach(model, PetlConfig(methods=methods), seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in attached.trainable.values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    data = DataConfig().clip_spec()
    clip = {
        "frames": data.frames,
        "stride": data.stride,
        "short_side": data.short_side,
        "sampling": data.sampling,
    }
    common = DataFacts(weights="demo", data="demo", clip=clip, size=32, segments=1, crops=3)
    classes = [f"class {i}" for i in range(MOTIONS)]
    facts = adapter_facts(common, trial="t0042", seed=0, classes=classes, precision="fp32")
    save_adapter(path, attached, facts)
    return path


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    names = ("lora q v", "adapter parallel", "patt k v", "prefix")
    return make_adapter(tmp_path_factory.mktemp("model") / "adapter.safetensors", names)


@pytest.fixture(scope="module")
def clips(adapter, videos):
    found = real_clips(vpetl_ray.load(adapter), [videos])
    assert found.shape == (32, 8, 32, 32, 3)
    assert len(torch.unique(found.flatten(1), dim=0)) == 32
    return found


@pytest.mark.parametrize("form", FORMATS)
def test_an_export_gives_the_logits_of_the_original(form, adapter, clips, tmp_path):
    model = vpetl_ray.load(adapter, device="cpu")
    expected = run_original(model)(clips)
    num_before = sum(p.numel() for p in model.attached.model.parameters())
    assert merge_what_can_be(model.attached) == ("lora",)
    assert sum(p.numel() for p in model.attached.model.parameters()) < num_before
    path = tmp_path / f"model{SUFFIXES[form]}"
    run = FORMATS[form](model, path)
    found = compare(expected, run, clips)
    assert (found.num_clips, found.same_labels) == (32, 32)
    assert found.max_difference <= 1e-4
    assert found.is_good
    assert torch.allclose(run(clips[:1]), expected[:1], atol=TOLERANCE)
    if form == "torch-export":
        runs_without_this_package(path, clips, expected)


def runs_without_this_package(path, clips, expected):
    extra = {"vpetl.json": ""}
    program = torch.export.load(path, extra_files=extra)
    assert json.loads(extra["vpetl.json"])["classes"][3] == "class 3"
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert targets
    assert not any("vpetl" in target for target in targets)
    with torch.no_grad():
        assert torch.allclose(program.module()(clips[:7]), expected[:7], atol=TOLERANCE)


def test_an_exported_safetensors_file_needs_no_other(adapter, clips, tmp_path, videos):
    model = vpetl_ray.load(adapter, device="cpu")
    expected = model.logits(clips)
    merge_what_can_be(model.attached)
    FORMATS["safetensors"](model, tmp_path / "m.safetensors")
    whole = vpetl_ray.load(tmp_path / "m.safetensors", backbone="/nowhere", device="cpu")
    assert torch.allclose(whole.logits(clips), expected, atol=1e-4)
    assert whole.facts == model.facts
    assert {m.name for m in whole.attached.config.methods} == {
        "adapter",
        "patt",
        "prefix",
    }
    video = next(videos.rglob("*.mp4"))
    assert whole.predict(video).label == model.predict(video).label


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_methods_that_are_merged_are_those_whose_modules_can_be(name):
    method = EXAMPLES[name]
    placements = make_placements(PetlConfig(methods=(method,)), nano(), seed=0)
    branches = [p for p in placements if isinstance(p, Branch)]
    mergeable = [b.layer is not None and isinstance(b.module, Mergeable) for b in branches]
    assert any(mergeable) == all(mergeable or [False]) == (method.name in MERGED_METHODS)


def nano():
    return build_model(get_arch("swin3d_nano"), 2)


def test_what_differs_is_not_good():
    assert not Agreement(num_clips=32, max_difference=2e-4, same_labels=32).is_good


def test_the_door_says_what_it_wrote(run, search, videos, tmp_path):
    done = run("export", f"{search}@best", "--format", "safetensors", "--out", "best.safetensors")
    assert done.returncode == 0, done.stderr
    assert "8 clips: " not in done.stdout
    assert "on 8 clips the logits differ by" in done.stdout  # all that the search validated on
    assert "parameters" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.safetensors"]
    again = run("export", f"{search}@best", "--format", "safetensors", "--out", "best.safetensors")
    assert (again.returncode, again.stderr) == (2, "--out: best.safetensors exists already\n")
    done = run("predict", "best.safetensors", next(videos.rglob("*.mp4")))
    assert done.returncode == 0, done.stderr


EXTRA = {"weights": 5, "classes": ["a", "a"], "precision": "int3", "size": 32.5, "segments": "x"}
EXTRA |= {"clip": [1], "crops": None}
WRONG_HEADERS = {
    "billion classes": ({"num_classes": "1000000000"}, {}, "names 12 classes, its classifier has"),
    "a billion less one": ({"num_classes": "-1"}, {}, "names 12 classes, its classifier has -1"),
    "one class more": (
        {"num_classes": "13"}, {"classes": [f"c{i}" for i in range(13)]}, "its classifier is 12 x",
    ),
    "classes no number": ({"num_classes": "many"}, {}, "its header is damaged"),
    "no arch": ({"arch": None}, {}, "its header is damaged"),
    "no JSON": ({"config": "{"}, {}, "its header is damaged"),
    "nested without end": ({"config": "[" * 99_999}, {}, "its header is damaged"),
    "extra of another kind": ({"extra": "5"}, {}, "its extra must be a mapping, got 5"),
    "frames": ({}, {"clip": {"frames": "4", "stride": 1, "short_side": 32, "sampling": "dense"}},
               "data.frames: must be a whole number from 1 to 512, got '4'"),
    "long path": ({}, {"weights": "a" * 5000}, "its weights must be text of at most 4096"),
    **{key: ({}, {key: value}, f"its {key} must be") for key, value in EXTRA.items()},
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(adapter):
    model = vpetl_ray.load(adapter, device="cpu")
    merge_what_can_be(model.attached)
    path = adapter.with_name("whole.safetensors")
    FORMATS["safetensors"](model, path)
    return path


@pytest.mark.parametrize("name", WRONG_HEADERS)
@pytest.mark.parametrize("kind", ["adapter", "whole"])
def test_a_file_that_says_wrong_things_is_refused(kind, name, request, tmp_path):
    header, extra, sentence = WRONG_HEADERS[name]
    source = request.getfixturevalue(kind)
    about, tensors = read_safetensors(source)
    about = {**about, "extra": json.dumps({**json.loads(about["extra"]), **extra}), **header}
    path = tmp_path / "wrong.safetensors"
    save_file(tensors, path, {key: value for key, value in about.items() if value is not None})
    with pytest.raises(CheckpointError, match=re.escape(sentence)) as caught:
        vpetl_ray.load(path, device="cpu")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["NaN", "int8", "huge", "missing"])
def test_a_whole_model_with_wrong_tensors_is_refused(name, whole, tmp_path):
    about, tensors = read_safetensors(whole)
    if name == "huge":
        method = {"name": "adapter", "d_bottle": 10**9}
        about["config"] = json.dumps({"methods": [method]})
    key = "norm.weight"
    changed = {"NaN": tensors[key] * torch.nan, "int8": tensors[key].to(torch.int8)}
    tensors = {k: t for k, t in tensors.items() if (name, k) != ("missing", key)}
    if name in changed:
        tensors[key] = changed[name]
    save_file(tensors, tmp_path / "m.safetensors", about)
    sentence = {
        "NaN": "1 tensor with NaN or infinite values: norm.weight",
        "int8": "1 tensor not stored as 16, 32 or 64-bit floats",
        "huge": "parameters, its tensors only",
        "missing": "1 missing tensor: norm.weight",
    }
    with pytest.raises(CheckpointError, match=sentence[name]):
        vpetl_ray.load(tmp_path / "m.safetensors", device="cpu")
