"""Two gloo processes against one, on the same global batch."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_training import EVERY_METHOD

WORKER = Path(__file__).with_name("ddp_worker.py")
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The three processes run side by side: most of their time is importing torch."""
    folder = tmp_path_factory.mktemp("ddp")
    ranks = [(0, 1), (0, 2), (1, 2)]
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rank), str(world_size), str(folder)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, world_size in ranks
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=280)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
    return {f"{w}-{r}": torch.load(folder / f"{w}-{r}.pt") for r, w in ranks}


CASES = [
    "bapat",
    "cached",
    "parts",
    "probe",
    *(f"{name}-{family}" for family, name in EVERY_METHOD),
]


@pytest.mark.parametrize("config", CASES)
def test_two_workers_equal_one_on_the_same_global_batch(reports: dict[str, Any], config: str):
    one, two, other = (reports[key][config] for key in ("1-0", "2-0", "2-1"))
    weights = two["weights"]
    for figure in ("train_loss", "loss", "predictions", "views"):
        assert two[figure] == other[figure]  # the ranks agree to the bit
    assert all(torch.equal(weights[name], other["weights"][name]) for name in weights)
    assert two["predictions"] == one["predictions"]
    assert two["train_loss"] == pytest.approx(one["train_loss"], rel=1e-4)
    assert two["views"] == pytest.approx(one["views"], rel=1e-4)
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    for name, weight in one["weights"].items():
        assert (weights[name] - weight).abs().max() < 1e-5, name


def test_both_workers_report_a_divergence_at_the_same_step(reports: dict[str, Any]):
    messages = [reports[key]["diverged"] for key in ("2-0", "2-1")]
    assert messages[0] == messages[1]
    assert messages[0].startswith("training diverged: the loss is")
