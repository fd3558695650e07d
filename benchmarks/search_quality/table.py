"""The table of trained configs, and a search space whose trials are looked up in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from vpetl_ray.spec.load import load_spec
from vpetl_ray.tuning.domains import Scalar, Value
from vpetl_ray.tuning.method_space import Values
from vpetl_ray.tuning.space import Space, TrialConfig

FOLDER = Path(__file__).parent
SPEC = FOLDER / "space.yaml"
RUNS = FOLDER / "results" / "runs.jsonl"
TABLE = FOLDER / "results" / "table.parquet"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A config as it was trained once."""

    key: str
    seed: int
    params: int
    top1: tuple[float, ...]
    """Of the validation clips after each epoch, percent."""
    seconds: tuple[float, ...]
    """Of each epoch."""
    test_top1: float


def read_table() -> Mapping[str, tuple[Curve, ...]]:
    """Return every config's curves by its key; while the table is made, what there is of it."""
    if TABLE.exists():
        rows = pq.read_table(TABLE).to_pylist()
    else:
        rows = [json.loads(line) for line in RUNS.read_text().splitlines()]
        for row in rows:
            row["config"] = json.dumps(row["config"])
    # By what was searched: a key is of all settings, and there are more in later versions.
    space = tabulated_space()
    configs = [space.build(values) for values in space.grid()]
    keys = {
        _signature(space, space.config_columns(config.values)): config.key for config in configs
    }
    curves: dict[str, tuple[Curve, ...]] = {}
    for row in sorted(rows, key=lambda row: (row["config"], row["seed"])):
        curve = Curve(
            key=keys[_signature(space, json.loads(row["config"]))],
            seed=row["seed"],
            params=row["params"],
            top1=tuple(row["top1"]),
            seconds=tuple(row["seconds"]),
            test_top1=row["test_top1"],
        )
        curves[curve.key] = (*curves.get(curve.key, ()), curve)
    return curves


def _signature(space: Space, columns: Mapping[str, Scalar]) -> str:
    return json.dumps([columns.get(path) for path in space.searched])


class RememberedSpace(Space):
    """Builds and counts each config once: thousands of simulated searches build the same ones."""

    def __init__(self, space: Space) -> None:
        super().__init__(arch=space.arch, num_classes=space.num_classes, tree=space.domains)
        self._built: dict[tuple[tuple[str, Value], ...], TrialConfig] = {}
        self._counts: dict[str, int] = {}
        self.by_key: dict[str, TrialConfig] = {}
        """Every config that was built."""

    def build(self, values: Values) -> TrialConfig:
        written = tuple(sorted(values.items()))
        if written not in self._built:
            config = self._built[written] = super().build(values)
            self.by_key[config.key] = config
        return self._built[written]

    def count(self, config: TrialConfig) -> int:
        if config.key not in self._counts:
            self._counts[config.key] = super().count(config)
        return self._counts[config.key]


def tabulated_space() -> RememberedSpace:
    """The space whose every config is in the table."""
    from vpetl_ray.data.demo import demo_classes  # noqa: PLC0415 - slow, and not needed by all

    return RememberedSpace(load_spec(SPEC).space(len(demo_classes())))
