"""Two gloo processes against one, on the same global batch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WORKER = Path(__file__).with_name("ddp_worker.py")
pytestmark = pytest.mark.timeout(150)


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
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
    return {f"{w}-{r}": json.loads((folder / f"{w}-{r}.json").read_text()) for r, w in ranks}


@pytest.mark.parametrize(
    "config", ["bapat", "cached", "probe", "vit", "mix", "vit mix", "vit full"]
)
def test_two_workers_equal_one_on_the_same_global_batch(reports: dict[str, Any], config: str):
    one, two, other = (reports[key][config] for key in ("1-0", "2-0", "2-1"))
    assert two == other  # the ranks agree to the bit
    assert two["predictions"] == one["predictions"]
    np.testing.assert_allclose(two["views"], one["views"], rtol=1e-4)
    np.testing.assert_allclose(two["train_loss"], one["train_loss"], rtol=1e-4)
    np.testing.assert_allclose(two["loss"], one["loss"], rtol=1e-4)
    for name, weight in one["weights"].items():
        np.testing.assert_allclose(two["weights"][name], weight, atol=1e-5, err_msg=name)


def test_both_workers_report_a_divergence_at_the_same_step(reports: dict[str, Any]):
    messages = [reports[key]["diverged"] for key in ("2-0", "2-1")]
    assert messages[0] == messages[1]
    assert messages[0].startswith("training diverged: the loss is")
