"""What is a training step worth whose frozen part was computed once? With features, without them.

The same config, recipe and clips twice in one process, steps interleaved: one reads clips and runs
the frozen part, the other reads what that gave from the feature store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from benchmarks.report import Figure
from benchmarks.step.measure import Step, count_flops, interleaved_seconds
from vpetl_ray.models.arch import get_arch
from vpetl_ray.models.build import build_model
from vpetl_ray.petl.attach import attach
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.methods import AdapterConfig
from vpetl_ray.training.feature_store import FeatureStore
from vpetl_ray.training.features import FeatureCache
from vpetl_ray.training.loop import FineTuning
from vpetl_ray.training.recipe import Recipe

NUM_CLASSES: Final = 12
LAST_STAGE_FLOOR: Final = 8.0
PROBE_FLOOR: Final = 30.0


@dataclass(frozen=True, kw_only=True)
class FrozenCase:
    """A backbone at a size, and how wide the last stage's adapter is."""

    name: str
    arch: str
    size: tuple[int, int, int]
    """Frames, height, width."""
    batch: int
    adapter: int

    def configs(self) -> Mapping[str, PetlConfig]:
        """The last stage alone (adapter and classifier), and the classifier alone."""
        last = get_arch(self.arch).num_stages
        adapter = AdapterConfig(d_bottle=self.adapter, stages=(last,))
        return {"last stage": PetlConfig(methods=(adapter,)), "linear probe": PetlConfig()}


FROZEN_CASES: Final = (
    FrozenCase(name="nano", arch="swin3d_nano", size=(8, 32, 32), batch=32, adapter=16),
    FrozenCase(name="swin_t", arch="swin3d_t", size=(8, 96, 96), batch=8, adapter=64),
    FrozenCase(name="swin_t_112", arch="swin3d_t", size=(8, 112, 112), batch=8, adapter=64),
)


class RandomClips:
    """Noise, whose content changes no time."""

    train_views = 1

    def __init__(self, num_clips: int, size: tuple[int, int, int]) -> None:
        self.id = f"noise of {num_clips} clips of {size}"
        generator = torch.Generator().manual_seed(0)
        shape = (num_clips, *size, 3)
        self._clips = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        self.labels = torch.randint(NUM_CLASSES, (num_clips,), generator=generator)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Sequence[int] | Tensor, *, epoch: int, train: bool) -> Tensor:
        return self._clips[torch.as_tensor(indices)]


def measure_frozen(case: FrozenCase, folder: Path, seconds: float) -> dict[str, dict[str, float]]:
    """Clips/s by config, `without` features and `with` them, and how many times the `flops`."""
    clips = RandomClips(2 * case.batch, case.size)
    found = {}
    for name, config in case.configs().items():
        cache = FeatureCache(store=FeatureStore(folder))
        steps = {
            "without": make_training_step(case, config, clips, None),
            "with": make_training_step(case, config, clips, cache),
        }
        taken = interleaved_seconds(
            steps, torch.device("cpu"), rounds=200, warmup=2, budget=seconds
        )
        found[name] = {key: case.batch / median for key, median in taken.items()}
        found[name]["flops"] = count_flops(steps["without"]) / count_flops(steps["with"])
    return found


def make_training_step(
    case: FrozenCase, config: PetlConfig, clips: RandomClips, cache: FeatureCache | None
) -> Step:
    """One step of the product's own loop, from reading the batch to the optimiser."""
    torch.manual_seed(0)
    model = build_model(get_arch(case.arch), NUM_CLASSES)
    attached = attach(model, config, seed=0)
    recipe = Recipe(learning_rate=1e-5, epochs=1, batch_size=case.batch, eval_batch_size=case.batch)
    tuning = FineTuning(model, attached, clips, clips, recipe, seed=0, features=cache)
    if cache is None:
        tuning._cache = None  # a probe keeps its features by itself
    tuning._fill_cache()
    tuning._set_modes()
    batch = torch.arange(case.batch)

    def read() -> Tensor:
        return tuning._train.read(batch, epoch=1, train=True)

    return lambda: tuning._step([batch], iter([read]), len(batch))


def frozen_figures(
    case: FrozenCase, found: Mapping[str, Mapping[str, float]] | None
) -> list[Figure]:
    """Ratios with their floors, and the clips/s behind them."""
    figures = []
    for name in case.configs():
        row = (found or {}).get(name)
        floor = LAST_STAGE_FLOOR if name == "last stage" else PROBE_FLOOR
        figures += [
            Figure(
                figure=f"{case.name}: {name}, clips/s with features over without",
                value=row["with"] / row["without"] if row else None,
                unit="x",
                floor=floor,
            ),
            Figure(
                figure=f"{case.name}: {name}, FLOPs of a step without features over with",
                value=row["flops"] if row else None,
                unit="x",
            ),
            *(
                Figure(
                    figure=f"{case.name}: {name}, clips/s {which} features",
                    value=row[which] if row else None,
                    unit="clips/s",
                )
                for which in ("without", "with")
            ),
        ]
    return figures
