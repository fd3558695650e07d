"""Pretrain the demo's backbone and write it, with its model card, into the package.

    python -m benchmarks.demo_task.pretrain [--out FOLDER]

Full tuning of a fresh nano Video Swin on the demo's source task, through the same training code
that searches use; one thread, so that the weights follow from the seed alone.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.demo_task.clips import source_clips
from benchmarks.report import describe_commit
from vpetl_ray.data.demo import DEMO_CHECKPOINT
from vpetl_ray.models.arch import count_backbone, get_arch
from vpetl_ray.models.checkpoints import load_backbone, save_backbone
from vpetl_ray.models.video_swin import VideoSwin
from vpetl_ray.petl.attach import attach
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.methods import FullConfig
from vpetl_ray.training.evaluation import evaluate
from vpetl_ray.training.loop import FineTuning
from vpetl_ray.training.recipe import Recipe

SEED = 0
ARCH = "swin3d_nano"
RECIPE = Recipe(
    learning_rate=1.2e-3,  # 2e-3 at times stays on the plateau it starts on
    weight_decay=0.05,
    epochs=7,
    batch_size=32,
    label_smoothing=0.1,
)

CARD = """# swin3d_nano_digits

The backbone of the embedded demo: a nano Video Swin (widths 32/64/128, two blocks a stage,
patches of 2 x 4 x 4, windows of 4 x 4 x 4) of {num_parameters:,} parameters, stored as fp16.

| | |
|---|---|
| what it was trained on | {num_train:,} clips of 8 frames at 32 x 32, made by `vpetl_ray.data.demo`: scikit-learn's handwriting scans, light on a dark cloudy ground, in ten single motions (four directions, two spins, zoom in and out, fade in and out) |
| what it has never seen | the demo's own task: other scans, dark digits on photographs, compositions of motions |
| made by | `python -m benchmarks.demo_task.pretrain`, seed {seed} |
| recipe | AdamW, rate {rate:g}, weight decay {decay:g}, one-cycle, batch {batch}, {epochs} epochs, label smoothing {smoothing:g} |
| top-1 on the {num_test} test clips of that source task, as stored | {top1:.1f}% (scans of its own) |
| time | {seconds:.0f} s of one CPU core, torch {torch}, Python {python} |
| file | {kib:.0f} KiB, safetensors, with the source task's classifier of 10 classes |
| made at | {commit} |

Licence: as this repository. The scans are the UCI optical recognition of handwritten digits data
set, which scikit-learn carries (CC BY 4.0, E. Alpaydin and C. Kaynak).

It is good for one thing: to be adapted in seconds to the demo's task. It knows nothing of real
videos.
"""  # noqa: E501 - table rows cannot be broken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=DEMO_CHECKPOINT.parent)
    out: Path = parser.parse_args().out
    torch.set_num_threads(1)
    train, val, test = source_clips()
    torch.manual_seed(SEED)
    model = VideoSwin(get_arch(ARCH), num_classes=10)
    start = time.process_time()
    attached = attach(model, PetlConfig(methods=(FullConfig(),)), seed=SEED)
    training = FineTuning(model, attached, train, val, RECIPE, seed=SEED)
    while not training.done:
        result = training.run_epoch()
        print(f"epoch {result.epoch}: train loss {result.train_loss:.3f}, val {result.top1:.1f}%")
    seconds = time.process_time() - start
    out.mkdir(parents=True, exist_ok=True)
    path = _save(model, out / DEMO_CHECKPOINT.name)
    stored = VideoSwin(get_arch(ARCH), num_classes=10)
    load_backbone(stored, path, load_head=True)
    card = CARD.format(
        num_parameters=count_backbone(model.arch),
        num_train=len(train),
        num_test=len(test),
        seed=SEED,
        rate=RECIPE.learning_rate,
        decay=RECIPE.weight_decay,
        batch=RECIPE.batch_size,
        epochs=RECIPE.epochs,
        smoothing=RECIPE.label_smoothing,
        top1=evaluate(stored, test).top1,
        seconds=seconds,
        torch=torch.__version__.split("+")[0],
        python=platform.python_version(),
        kib=path.stat().st_size / 1024,
        commit=describe_commit(Path(__file__).parent),
    )
    (out / "MODEL_CARD.md").write_text(card)
    print(card)


def _save(model: VideoSwin, path: Path) -> Path:
    about = {
        "task": "vpetl_ray demo, source task",
        "script": "benchmarks/demo_task/pretrain.py",
        "seed": str(SEED),
    }
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        made = save_backbone(
            model, Path(scratch) / path.name, metadata=about, dtype=torch.float16, with_head=True
        )
        made.chmod(0o644)
        return made.replace(path)


if __name__ == "__main__":
    main()
