"""The embedded demo: repeatable files, honest splits, classes that only time tells."""

import re
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from vpetl_ray.data import demo
from vpetl_ray.data.demo import DEMO_CHECKPOINT, demo_classes, encode_mp4, make_demo_videos
from vpetl_ray.data.demo_clips import TASKS, Task, class_name, draw_clip, scan_of_clip
from vpetl_ray.data.demo_motion import NUM_FRAMES, SIDE, TARGET_MOTIONS
from vpetl_ray.errors import DataError
from vpetl_ray.models.arch import get_arch
from vpetl_ray.models.checkpoints import load_backbone
from vpetl_ray.models.preprocess import clips_to_input
from vpetl_ray.models.video_swin import VideoSwin

NUM_CLASSES = len(TARGET_MOTIONS)


@pytest.fixture
def small_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two clips a class and split."""
    task = TASKS["target"]
    num_clips = dict.fromkeys(task.num_clips, 2 * NUM_CLASSES)
    small = Task(motions=task.motions, number=task.number, num_clips=num_clips, scans=task.scans)
    monkeypatch.setitem(demo.TASKS, "target", small)  # type: ignore[arg-type]


def _contents(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.mark.usefixtures("small_task")
def test_the_same_seed_gives_the_same_bytes_with_one_process_and_with_two(tmp_path: Path) -> None:
    once = make_demo_videos(tmp_path / "a")
    # The processes of the pool draw their clips from the full task: by number, so the same ones.
    twice = make_demo_videos(tmp_path / "b", num_processes=2)
    other = make_demo_videos(tmp_path / "c", seed=1)
    assert _contents(once) == _contents(twice)
    videos = {name for name in _contents(once) if name.endswith(".mp4")}
    assert len(videos) == 3 * 2 * NUM_CLASSES
    assert all(_contents(once)[name] != _contents(other)[name] for name in videos)


@pytest.mark.usefixtures("small_task")
def test_the_folders_are_the_splits_and_the_classes_and_nothing_is_left_beside_them(
    tmp_path: Path,
) -> None:
    root = make_demo_videos(tmp_path / "demo")
    assert {p.name for p in root.iterdir()} == {"train", "val", "test", "manifest.json"}
    for split in ("train", "val", "test"):
        assert tuple(sorted(p.name for p in (root / split).iterdir())) == demo_classes()
    assert {p.name for p in tmp_path.iterdir()} == {"demo", ".demo.lock"}


@pytest.mark.usefixtures("small_task")
def test_made_videos_are_kept_and_a_damaged_set_is_made_again(tmp_path: Path) -> None:
    root = make_demo_videos(tmp_path / "demo")
    victim = next(root.rglob("*.mp4"))
    whole, made_at = victim.read_bytes(), victim.stat().st_mtime_ns
    make_demo_videos(root)
    assert victim.stat().st_mtime_ns == made_at
    victim.write_bytes(whole[:100])
    make_demo_videos(root)
    assert victim.read_bytes() == whole


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.mp4").write_bytes(b"mine")
    with pytest.raises(DataError, match="holds other files"):
        make_demo_videos(tmp_path)
    assert (tmp_path / "holiday.mp4").read_bytes() == b"mine"


@pytest.mark.usefixtures("small_task")
def test_an_interrupted_build_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "_content_hash", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_demo_videos(tmp_path / "demo")
    assert {p.name for p in tmp_path.iterdir()} == {".demo.lock"}


@pytest.mark.parametrize("task", ["source", "target"])
def test_every_mp4_decodes_to_exactly_eight_frames_close_to_what_was_drawn(
    task: str, tmp_path: Path
) -> None:
    for index in range(len(TASKS[task].motions)):  # type: ignore[index]
        drawn = draw_clip(task, "val", index, seed=0)  # type: ignore[arg-type]
        path = tmp_path / f"{index}.mp4"
        encode_mp4(drawn, path)
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(frames) == NUM_FRAMES
        assert np.abs(np.stack(frames).astype(int) - drawn).mean() < 12  # chroma is halved


def test_no_scan_is_in_two_splits_or_in_both_tasks() -> None:
    used = [
        {scan_of_clip(task, split, index, seed=seed) for index in range(num) for seed in (0, 1)}
        for task in ("source", "target")
        for split, num in TASKS[task].num_clips.items()
    ]
    assert len(set().union(*used)) == sum(len(scans) for scans in used)


def _target_clips(split: str, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    clips = np.stack([draw_clip("target", split, index, seed=0) for index in range(count)])
    names = sorted(TARGET_MOTIONS)
    labels = [names.index(class_name("target", index)) for index in range(count)]
    return clips, np.array(labels)


def _accuracy(
    train: NDArray[np.float64],
    train_labels: NDArray[np.int64],
    test: NDArray[np.float64],
    test_labels: NDArray[np.int64],
) -> float:
    classifier = LogisticRegression(C=1e-3, max_iter=200).fit(train, train_labels)
    return float(classifier.score(test, test_labels))


def test_position_angle_size_and_ink_of_any_single_frame_say_nothing_of_the_class() -> None:
    # Both are uniform by construction; here 600 paths of each class are drawn to see it. On the
    # torus and the circle, the first Fourier coefficient shows any leaning to one side.
    for name, motion in TARGET_MOTIONS.items():
        paths = [motion(np.random.default_rng(i)) for i in range(600)]
        for frame in (0, 3, 7):
            angles = np.array([path.angles[frame] for path in paths])
            places = np.array([path.centres[frame] for path in paths]) * 2 * np.pi / SIDE
            leaning = np.abs(np.exp(1j * np.column_stack([angles, places])).mean(axis=0))
            assert (leaning < 3.5 / 600**0.5).all(), (name, frame, leaning)
            assert {path.opacities[frame] for path in paths} == {1.0}
            assert 14.8 < np.mean([path.sizes[frame] for path in paths]) < 15.2


@pytest.mark.parametrize("frame", [0, 4, 7])
def test_a_classifier_of_one_frame_stays_at_chance(frame: int) -> None:
    train, train_labels = _target_clips("train", 600)
    test, test_labels = _target_clips("val", 420)
    accuracy = _accuracy(
        train[:, frame, ::2, ::2].reshape(600, -1) / 255.0,
        train_labels,
        test[:, frame, ::2, ::2].reshape(420, -1) / 255.0,
        test_labels,
    )
    chance = 1 / NUM_CLASSES
    assert accuracy < chance + 3 * (chance * (1 - chance) / 420) ** 0.5


def test_shuffled_in_time_a_clip_keeps_its_frames_and_backwards_it_is_another_motion() -> None:
    path = TARGET_MOTIONS["right_then_up"](np.random.default_rng(0))
    steps = np.diff(path.centres, axis=0)
    assert steps[0, 0] > 0
    assert steps[-1, 1] < 0
    back = np.diff(path.reversed().centres, axis=0)
    assert back[0, 1] > 0  # down first, then left: no class of the demo, for the same eight frames
    assert back[-1, 0] < 0


def test_the_checkpoint_is_small_enough_to_come_along() -> None:
    assert 1e6 < DEMO_CHECKPOINT.stat().st_size < 3e6


def test_the_checkpoint_does_on_fresh_source_clips_what_its_card_says() -> None:
    card = (DEMO_CHECKPOINT.parent / "MODEL_CARD.md").read_text()
    stated = re.search(r"as stored \| ([\d.]+)%", card)
    assert stated
    model = VideoSwin(get_arch("swin3d_nano"), num_classes=10).eval()
    load_backbone(model, DEMO_CHECKPOINT, load_head=True)
    count = 300
    clips = np.stack([draw_clip("source", "test", index, seed=1) for index in range(count)])
    names = sorted(TASKS["source"].motions)
    labels = torch.tensor([names.index(class_name("source", i)) for i in range(count)])
    with torch.inference_mode():
        logits_BK = model(clips_to_input(torch.from_numpy(clips)))
    top1 = 100 * float((logits_BK.argmax(1) == labels).double().mean())
    assert top1 > float(stated[1]) - 3  # other clips of the same scans: the error is half a point
