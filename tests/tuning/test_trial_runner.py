"""The real runner without Ray: one worker's backbone, a real clip store, a task at a time."""

import io
import json
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load

from vpetl_ray.data.clip_build import build_clip_store
from vpetl_ray.data.config import ClipSpec, ViewSpec
from vpetl_ray.data.data_set import DataSet, VideoItem
from vpetl_ray.errors import CheckpointError, VpetlError
from vpetl_ray.models.arch import SwinArch
from vpetl_ray.models.checkpoints import save_backbone
from vpetl_ray.models.video_swin import VideoSwin
from vpetl_ray.petl.adapter_file import load_adapter
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.methods import AdapterConfig, PattConfig
from vpetl_ray.profile_table import say_profile
from vpetl_ray.training.profile import PHASES
from vpetl_ray.training.recipe import Recipe
from vpetl_ray.tuning.messages import make_task
from vpetl_ray.tuning.space import TrialConfig
from vpetl_ray.tuning.trial_protocol import WorkerContext
from vpetl_ray.tuning.trial_runner import FineTuningSetup, fine_tuning_groups

ARCH = SwinArch(name="toy", embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=(2, 2, 2))
CLASSES = ("dark", "light")
WIDE = PetlConfig(
    methods=(PattConfig(targets=("k", "v"), d_bottle=4), AdapterConfig(d_bottle=4, scale=1.0))
)
NARROW = PetlConfig(methods=(AdapterConfig(d_bottle=2, scale=1.0, stages=(2,)),))


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    """Groups set up for a tiny backbone and 16 real videos."""
    folder = tmp_path_factory.mktemp("runner")
    splits = {
        split: tuple(make_video(folder, split, i) for i in range(count))
        for split, count in (("train", 8), ("val", 4), ("test", 4))
    }
    data_set = DataSet(name="tiny", root=folder, classes=CLASSES, splits=splits)
    store = build_clip_store(data_set, ClipSpec(frames=4, stride=1, short_side=16), folder)
    torch.manual_seed(0)
    save_backbone(VideoSwin(ARCH, num_classes=7), folder / "backbone.safetensors")
    view = ViewSpec(size=16, train_crop="centre", flip=0)
    setup = FineTuningSetup(arch=ARCH, clip_store=str(store), view=view, seed=3)
    return fine_tuning_groups(setup, folder / "backbone.safetensors")


def make_video(folder, split, index):
    rng = np.random.default_rng(index)
    path = folder / f"{split}{index}.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(6):
            noise = rng.integers(0, 60, (32, 32, 3)) + 150 * (index % 2)
            frame = av.VideoFrame.from_ndarray(noise.astype(np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return VideoItem(path=str(path), label=index % 2)


@pytest.fixture
def runner(groups):
    context = WorkerContext(
        group=0, rank=0, world_size=1, device="cpu", num_threads=1, shared=groups.shared
    )
    return groups.make_runner(groups.payload, context)


def config(petl, **recipe):
    settings = {"learning_rate": 1e-2, "epochs": 3, "batch_size": 4, "eval_batch_size": 4}
    return TrialConfig(petl=petl, recipe=Recipe(**{**settings, **recipe}), values={}, key="")


def train(runner, petl, **more):
    """Every epoch of a trial without its seconds, and its file."""
    runner.start(make_task("t0001", config(petl), **more))
    outputs = [runner.run_epoch()]
    while not outputs[-1].is_last:
        outputs.append(runner.run_epoch())
    result = runner.result()
    runner.close()
    return [(o.epoch, {**o.metrics, "seconds": 0}) for o in outputs], result


def tensors(result):
    return {name: tensor.tolist() for name, tensor in load(result).items()}


def test_a_trial_reports_each_epoch_and_ends_with_its_adapter_file(runner, groups, tmp_path):
    outputs, result = train(runner, WIDE)
    assert [epoch for epoch, _ in outputs] == [1, 2, 3]
    assert outputs[0][1].keys() == {"top1", "loss", "train_loss", "seconds", "samples"}
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(result)
    model = VideoSwin(ARCH, len(CLASSES))
    model.load_state_dict({k: torch.from_numpy(v) for k, v in groups.shared.items()}, strict=False)
    assert load_adapter(path, model).config == WIDE


def test_a_trial_is_measured_with_its_first_epoch_and_not_again(runner, groups):
    plain, result = train(runner, WIDE)
    measured = replace(groups.payload, measured=("latency_ms", "peak_memory_mb"))
    other = groups.make_runner(measured, runner._context)
    outputs, measured_result = train(other, WIDE)
    first = outputs[0][1]
    assert first.pop("latency_ms") > 0
    assert first.pop("peak_memory_mb") > 0
    assert outputs == plain
    assert tensors(measured_result) == tensors(result)
    other.start(make_task("t0001", config(WIDE)))
    other.run_epoch()
    state = other.state()
    other.close()
    rest, _ = train(other, WIDE, start_state=state)
    assert rest == plain[1:]


def test_a_trial_goes_on_in_another_worker_as_if_nothing_had_happened(runner, groups):
    whole, result = train(runner, WIDE)
    runner.start(make_task("t0001", config(WIDE)))
    runner.run_epoch()
    state = runner.state()
    runner.close()
    other = groups.make_runner(groups.payload, runner._context)
    rest, other_result = train(other, WIDE, start_state=state)
    assert rest == whole[1:]
    assert tensors(other_result) == tensors(result)


def test_trials_leave_no_trace_in_one_another(runner, groups):
    fresh = groups.make_runner(groups.payload, runner._context)
    train(runner, WIDE)
    (epochs, result), (fresh_epochs, fresh_result) = train(runner, NARROW), train(fresh, NARROW)
    assert epochs == fresh_epochs
    assert tensors(result) == tensors(fresh_result)


def test_a_finished_trial_is_measured_on_the_test_split_once(runner):
    _, result = train(runner, WIDE)
    runner.start(make_task("t0001.test", config(WIDE), kind="evaluate", start_state=result))
    output = runner.run_epoch()
    assert (output.epoch, output.is_last, runner.result()) == (0, True, b"")
    assert output.metrics["num_clips"] == 4
    assert output.metrics["top1"] == 100.0  # light or dark: four epochs are enough for that
    runner.close()


def test_the_views_of_a_clip_are_measured_where_that_is_asked_for(groups, runner):
    _, result = train(runner, WIDE)
    task = make_task("t0001.test", config(WIDE), kind="evaluate_views", start_state=result)
    runner.start(task)
    metrics = runner.run_epoch().metrics
    runner.close()
    assert metrics["num_views"] == 1  # stored as small as they are seen
    assert (metrics["views_top1"], metrics["views_loss"]) == (metrics["top1"], metrics["loss"])
    cut = replace(groups.payload, view=replace(groups.payload.view, size=8))
    other = groups.make_runner(cut, runner._context)
    other.start(task)
    metrics = other.run_epoch().metrics
    assert metrics["num_views"] == 3
    assert metrics["views_loss"] != metrics["loss"]


@pytest.mark.parametrize("train_crop", ["centre", "random"])
def test_a_task_may_bring_its_own_seed(groups, runner, train_crop):
    views = replace(groups.payload.view, train_crop=train_crop)
    theirs = replace(groups.payload, view=views)
    same = train(groups.make_runner(theirs, runner._context), WIDE, seed=5)
    ours = groups.make_runner(replace(theirs, seed=5), runner._context)
    assert train(ours, WIDE)[0] == same[0]
    assert train(ours, WIDE, seed=6)[0] != same[0]
    assert json.loads(read_metadata(same[1])["extra"])["seed"] == 5


def read_metadata(result):
    length = int.from_bytes(result[:8], "little")
    return json.loads(result[8 : 8 + length])["__metadata__"]


def test_after_a_task_that_could_not_start_the_next_one_runs(runner):
    with pytest.raises(VpetlError):
        runner.start(make_task("bad", config(PetlConfig(train_classifier=False))))
    runner.close()
    with pytest.raises(CheckpointError):
        runner.start(make_task("bad.test", config(WIDE), kind="evaluate"))
    runner.close()
    assert len(train(runner, NARROW)[0]) == 3


def test_the_first_trial_is_profiled_and_gives_what_it_gives_otherwise(runner, groups, tmp_path):
    plain = train(runner, NARROW)
    setup = replace(groups.payload, profile=str(tmp_path / "profile"))
    other = groups.make_runner(setup, runner._context)
    profiled = train(other, NARROW)
    assert profiled[0] == plain[0]
    assert tensors(profiled[1]) == tensors(plain[1])
    profile = json.loads((tmp_path / "profile" / "profile.json").read_text())
    assert profile["trial"] == "t0001"
    assert profile["step_flops"] > 0
    assert 0 < profile["share_of_matmul_rate"] < 1
    assert min(profile["seconds"][name] for name in PHASES) > 0
    trace = json.loads((tmp_path / "profile" / "trace.json").read_text())
    assert {event.get("name") for event in trace["traceEvents"]} >= {"forward", "backward"}
    table = Console(width=80, record=True, file=io.StringIO())
    say_profile(table, tmp_path, decode_seconds=1.0)
    assert "forward and backward run at" in table.export_text()
    (tmp_path / "profile" / "profile.json").unlink()
    train(other, NARROW)
    assert not (tmp_path / "profile" / "profile.json").exists()


def test_a_diverging_trial_says_so_in_one_sentence(runner):
    runner.start(make_task("t0001", config(WIDE, learning_rate=1e30, epochs=1)))
    with pytest.raises(VpetlError, match="diverged"):
        runner.run_epoch()
    runner.close()
