"""The `search.halving` section: what it makes, and what is refused."""

import pytest

from tests.spec.conftest import MINIMAL
from vpetl_ray.spec.load import load_spec
from vpetl_ray.tuning.halving import default_rungs


def rungs_of(path, *overrides):
    halving = load_spec(path, overrides).halving()
    return None if halving is None else halving.rungs


def test_without_the_section_every_trial_is_trained_to_its_end(write):
    assert rungs_of(write()) is None


def test_rungs_follow_from_the_fewest_epochs(write):
    path = write()
    assert rungs_of(path, "search.halving={}", "training.epochs=70") == (4, 17)
    epochs = "training.epochs={choice: [16, 8]}"
    assert rungs_of(path, "search.halving={}", epochs) == (2,)
    assert rungs_of(path, "search.halving.rungs=[2, 1]", epochs) == (1, 2)


@pytest.mark.parametrize("epochs", [70, 5, 2, 1])
def test_default_rungs_ascend_and_stay_below_the_last_epoch(epochs):
    rungs = default_rungs(epochs)
    assert list(rungs) == sorted(set(rungs))
    assert all(1 <= rung < epochs for rung in rungs)
    assert rungs or epochs == 1


def test_a_resolved_section_reads_as_the_same(write):
    spec = load_spec(write(), ["search.halving.promote=rank", "training.epochs=9"])
    assert load_spec(write(spec.to_yaml(), "again.yaml")) == spec


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("rungs=[1, 2]", "search.halving.rungs: must be below training.epochs (2), got 2"),
        ("rungs=[]", "search.halving.rungs: is empty; name epochs, or leave halving out"),
        ("eta=1", "search.halving.eta: must be"),
        ("variant=both", "search.halving.variant: 'both' is not one of promotion, stopping"),
    ],
)
def test_a_mistake_is_said_in_a_sentence(mistakes, override, sentence):
    [line] = mistakes(MINIMAL, f"search.halving.{override}")
    assert sentence in line
