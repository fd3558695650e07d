"""Test accuracies of rows whose search has not come to its end, where it would measure them.

python -m benchmarks.paper_tables.early_test --work runs/paper_tables

From the adapter files that a search with `test: all` keeps until then, by the same function.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd
import torch

from vpetl_ray.data.config import DataConfig
from vpetl_ray.data.demo import DEMO_CHECKPOINT
from vpetl_ray.data.prepare_store import prepare_store
from vpetl_ray.models.arch import get_arch
from vpetl_ray.models.build import build_model
from vpetl_ray.models.checkpoints import load_backbone
from vpetl_ray.petl.adapter_file import load_adapter
from vpetl_ray.training.evaluation import evaluate

FILE = "early_test.json"


def early(folder: Path) -> dict[str, float]:
    """What has been measured of a search, by trial."""
    path = folder / FILE
    return dict(json.loads(path.read_text())) if path.exists() else {}


def measure(folder: Path) -> None:
    """Measure every complete trial of one search that has no test accuracy."""
    trials = pd.read_parquet(folder / "trials.parquet")
    open_ones = trials[(trials.state == "complete") & trials.test_top1.isna()]
    found = early(folder)
    data = DataConfig(source="demo")
    store = prepare_store(data).store
    clips = store.split("test", data.view_spec(), seed=0)
    model = build_model(get_arch("swin3d_nano"), len(store.classes))
    load_backbone(model, DEMO_CHECKPOINT)
    for trial in open_ones.id:
        if trial in found:
            continue
        attached = load_adapter(folder / "adapters" / f"{trial}.safetensors", model)
        found[trial] = evaluate(model, clips).top1
        attached.detach()
        print(folder.name, trial, found[trial])
    (folder / FILE).write_text(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of the searches")
    torch.set_num_threads(1)
    for path in sorted(parser.parse_args().work.glob("*/trials.parquet")):
        measure(path.parent)


if __name__ == "__main__":
    main()
