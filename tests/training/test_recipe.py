import json
from itertools import pairwise

import pytest
import torch

from vpetl_ray.errors import VpetlError
from vpetl_ray.training.network import check_compiler
from vpetl_ray.training.recipe import SCHEDULES, Recipe, learning_rate_factor

GOOD = {"learning_rate": 0.01, "epochs": 4, "batch_size": 32}

BAD = {
    "optimizer": ({"optimizer": "adam"}, "training.optimizer: 'adam' is not allowed; did you"),
    "schedule": ({"schedule": "onecycle"}, "did you mean 'one_cycle'?"),
    "precision": ({"precision": "fp16"}, "choose from fp32, bf16"),
    "epochs": ({"epochs": 0}, "training.epochs: must be a whole number of at least 1, got 0"),
    "half an epoch": ({"epochs": 1.5}, "got 1.5"),
    "learning rate": ({"learning_rate": -1}, "training.learning_rate: must be a number above 0"),
    "drop path": ({"drop_path": 1}, "must be a number of at least 0 and below 1, got 1"),
    "clip": ({"grad_clip": 0}, "training.grad_clip: must be a number above 0, got 0"),
    "warm-up": ({"warmup_epochs": 4}, "training.warmup_epochs: must be below epochs (4), got 4"),
    "compile": ({"compile": 1}, "training.compile: must be true or false, got 1"),
    "unknown": ({"learnig_rate": 1}, "did you mean 'learning_rate'?"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_bad_recipe_is_refused_with_a_sentence(change: dict, message: str):
    with pytest.raises(VpetlError) as caught:
        Recipe.from_dict({**GOOD, **change})
    assert message in str(caught.value)


@pytest.mark.parametrize("key", GOOD)
def test_recipe_without_a_required_key_is_refused(key: str):
    with pytest.raises(VpetlError, match=f"training.{key}: must be given"):
        Recipe.from_dict({k: v for k, v in GOOD.items() if k != key})


def test_recipe_survives_json():
    recipe = Recipe(**GOOD, optimizer="sgd", grad_clip=1.0, schedule="cosine", warmup_epochs=0.5)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def factors(schedule: str, total: int, warmup: float = 0) -> list[float]:
    return [
        learning_rate_factor(schedule, step, total_steps=total, warmup_steps=warmup)
        for step in range(total)
    ]


@pytest.mark.parametrize("total", [1, 2, 3, 120])
@pytest.mark.parametrize("warmup", [0, 0.5, 1])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_factor_stays_within_0_and_1_for_any_length(schedule: str, warmup: float, total: int):
    assert all(0 < value <= 1 for value in factors(schedule, total, warmup))


def test_one_cycle_rises_for_30_percent_and_then_falls_to_nearly_0():
    values = factors("one_cycle", 100)
    assert values[0] == pytest.approx(1 / 25)
    assert values[30] == 1
    assert values == sorted(values[:31]) + sorted(values[31:], reverse=True)
    assert values[-1] < 1e-3


def test_cosine_warms_up_in_a_line_and_is_at_half_in_the_middle():
    values = factors("cosine", 110, warmup=10)
    rises = [b - a for a, b in pairwise(values[:11])]
    assert all(rise == pytest.approx(1 / 11) for rise in rises)
    assert values[10] == 1
    assert values[60] == pytest.approx(0.5)
    assert values[-1] < 1e-3


def test_constant_stays():
    assert factors("constant", 5) == [1.0] * 5


def test_compiling_without_a_compiler_is_refused_before_it_fails(monkeypatch: pytest.MonkeyPatch):
    check_compiler(torch.device("cuda"))
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(VpetlError, match=r"training\.compile: needs a C\+\+ compiler"):
        check_compiler(torch.device("cpu"))
