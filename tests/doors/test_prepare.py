"""`python -m vpetl_ray.prepare`: what it prints, what it leaves, how it ends."""

from pathlib import Path

import av
import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from vpetl_ray.data.prepare_store import prepare_store
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


def test_an_interrupted_build_ends_with_130_and_leaves_nothing(
    spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **kwargs: object) -> object:
        def stop(_: object) -> None:
            raise KeyboardInterrupt

        return prepare_store(*args, **{**kwargs, "progress": stop})  # type: ignore[arg-type]

    monkeypatch.setattr("vpetl_ray.prepare.prepare_store", interrupted)
    result = run(spec, "--processes", 1)
    assert result.exit_code == 130
    assert stores(spec) == []
    assert not list((spec.parent / "cache" / "clips").glob(".*partial*"))
