"""`python -m vpetl_ray.prepare`: what it prints, what it leaves, how it ends."""

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from vpetl_ray.data.manifest import Skipped
from vpetl_ray.data.prepare_store import prepare_store
from vpetl_ray.data.store_files import BuildProgress
from vpetl_ray.decode_words import DecodeWords, skipped_sentence
from vpetl_ray.prepare import prepare

SPEC = """
data: {source: folder, path: videos, frames: 4, size: 16, short_side: 16, max_skipped_share: 0.1}
petl: {patt: {d_bottle: 8}}
training: {learning_rate: 0.01, epochs: 1, batch_size: 4}
budget: {trainable_params: 50%}
"""


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A spec beside a folder of 12 videos; the cache is in tmp_path, too."""
    for split in ("train", "val", "test"):
        for label in ("jump", "sit"):
            for i in range(2):
                _write_video(tmp_path / "videos" / split / label / f"{i}.mp4")
    monkeypatch.setenv("VPETL_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return path


def _write_video(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        for value in range(8):
            image = np.full((16, 16, 3), value * 30, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())


def run(*words: object) -> Result:
    app = typer.Typer()
    app.command()(prepare)
    return CliRunner().invoke(app, [str(word) for word in words])


def stores(spec: Path) -> list[Path]:
    return list((spec.parent / "cache" / "clips").glob("folder-*"))


def test_videos_are_decoded_once_and_unreadable_ones_named(spec: Path) -> None:
    (spec.parent / "videos" / "train" / "jump" / "text.mp4").write_text("text")
    first = run(spec, "--processes", 1)
    assert first.exit_code == 0, first.output
    assert "train 4, val 4, test 4" in first.output
    assert "clips/s" in first.output
    assert "train/jump/text.mp4: it cannot be opened as a video" in first.output
    [store] = stores(spec)
    assert str(store) in first.output
    again = run(spec)
    assert again.exit_code == 0
    assert "found whole" in again.output
    assert stores(spec) == [store]


def test_a_wrong_spec_or_wrong_videos_end_with_2_and_leave_nothing(spec: Path) -> None:
    wrong = run(spec, "--set", "data.frames=0")
    assert wrong.exit_code == 2
    assert "data.frames" in wrong.output
    for path in (spec.parent / "videos" / "val").rglob("*.mp4"):
        path.write_bytes(b"")
    bad = run(spec, "--processes", 1)
    assert bad.exit_code == 2
    assert "4 of 12 videos cannot be read" in bad.output
    assert "val/sit/1.mp4: the file is empty" in bad.output
    assert stores(spec) == []


def test_an_interrupted_build_ends_with_130_and_goes_on_later(
    spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vpetl_ray.data.clip_file._BATCH_BYTES", 1000)  # one clip each

    def interrupted(*args: object, **kwargs: object) -> object:
        def stop(state: BuildProgress) -> None:
            watch(state)
            if state.num_done == 6:
                raise KeyboardInterrupt

        watch = kwargs["progress"]
        return prepare_store(*args, **{**kwargs, "progress": stop})  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr("vpetl_ray.prepare.prepare_store", interrupted)
        result = run(spec, "--processes", 1)
    assert result.exit_code == 130
    assert "interrupted at 6 of 12 clips; the same command goes on" in result.output
    assert stores(spec) == []
    again = run(spec, "--processes", 1)
    assert again.exit_code == 0, again.output
    assert "6 of 12 clips were decoded before" in again.output
    assert "1 process" in again.output
    assert len(stores(spec)) == 1
    assert not list((spec.parent / "cache" / "clips").glob(".*partial*"))


def test_words_for_a_build_count_only_new_clips_as_speed() -> None:
    now = iter([0.0, 0.0, 100.0])
    words = DecodeWords(clock=lambda: next(now))
    state = BuildProgress(num_videos=3570, num_done=1200, num_before=1200, place="4 processes")
    assert words(state) == "decoded before: 1,200 of 3,570"
    first = replace(state, num_done=1201)
    assert words(first) == "decoding videos, 1,201 of 3,570, on 4 processes"
    later = replace(state, num_done=2201, num_skipped=2)
    assert words(later) == (
        "decoding videos, 2,201 of 3,570, 10 a second, about 2:17 left, on 4 processes, 2 skipped"
    )


def test_skipped_videos_are_said_with_their_reasons() -> None:
    skipped = [Skipped(path=f"a/{i}.mp4", reason="the file is empty") for i in range(5)]
    assert skipped_sentence([], 9) == ""
    assert skipped_sentence(skipped[:1], 9) == (
        "1 of 9 videos is skipped because it cannot be read: 0.mp4 (the file is empty)"
    )
    assert skipped_sentence(skipped, 9).endswith("2.mp4 (the file is empty) and 2 more")
