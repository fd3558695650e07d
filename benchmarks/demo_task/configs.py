"""The configs that the demo task is measured with, and how they are trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from vpetl_ray.data.demo import demo_classes
from vpetl_ray.models.arch import get_arch
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.count import count_trainable
from vpetl_ray.petl.methods import AdapterConfig, FullConfig, PattConfig
from vpetl_ray.training.recipe import Recipe

ARCH = get_arch("swin3d_nano")
SEEDS = (0, 1, 2)
RECIPE = Recipe(learning_rate=1e-2, epochs=4, batch_size=16, label_smoothing=0.1, grad_clip=1.0)
WIDTHS = (2, 8, 32, 64)


@dataclass(frozen=True, kw_only=True)
class Entry:
    name: str
    petl: PetlConfig
    rates: tuple[float, ...]

    @property
    def is_petl(self) -> bool:
        return self.name not in ("linear probe", "full tuning")

    @property
    def trainable(self) -> int:
        return count_trainable(self.petl, ARCH, len(demo_classes())).total

    def recipe(self, rate: float) -> Recipe:
        return replace(RECIPE, learning_rate=rate, probe_learning_rate=rate)


def _patt(width: int, targets: tuple[str, ...] = ("k", "v")) -> PattConfig:
    return PattConfig(targets=targets, d_bottle=width)


def _adapter(width: int) -> AdapterConfig:
    return AdapterConfig(d_bottle=width, scale=1.0)


def _entries() -> Iterator[Entry]:
    yield Entry(name="linear probe", petl=PetlConfig(), rates=(1e-2, 3e-2))
    for width in WIDTHS:
        rates = (1e-2, 2e-2) if width <= 8 else (5e-3, 1e-2)
        yield Entry(
            name=f"PATT(K,V) {width}", petl=PetlConfig(methods=(_patt(width),)), rates=rates
        )
    for width in WIDTHS:
        rates = (1e-2, 2e-2) if width <= 8 else (5e-3, 1e-2)
        yield Entry(
            name=f"adapter {width}", petl=PetlConfig(methods=(_adapter(width),)), rates=rates
        )
    for width in (16, 32):
        yield Entry(
            name=f"adapter {width} + PATT(K,V) {width}",
            petl=PetlConfig(methods=(_adapter(width), _patt(width))),
            rates=(5e-3, 1e-2),
        )
    yield Entry(name="full tuning", petl=PetlConfig(methods=(FullConfig(),)), rates=(5e-4, 1e-3))


ENTRIES = tuple(_entries())
