"""How far the frozen part reaches into a stage, and that stopping there changes nothing."""

from dataclasses import replace

import pytest
import torch
from test_features import run
from toy_training import RECIPE, FakeClips, family_model

from vpetl_ray.models.backbone import NO_LEAD, Lead
from vpetl_ray.petl.attach import attach
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.methods import AdapterConfig, BitFitConfig, PattConfig, PositionConfig
from vpetl_ray.training import cut
from vpetl_ray.training.cut import find_lead
from vpetl_ray.training.features import FeatureCache

PARALLEL = AdapterConfig(d_bottle=4, scale=1.0, stages=(2,))
SEQUENTIAL = replace(PARALLEL, placement="sequential")
ONE_BLOCK = replace(PARALLEL, stages=None, blocks=(4,))
CASES = {
    "adapter": (PARALLEL, Lead(has_start=True)),
    "sequential adapter": (SEQUENTIAL, Lead(has_start=True)),
    "adapter in the second block": (ONE_BLOCK, Lead(blocks=1, has_start=True)),
    "PATT": (PattConfig(targets=("k",), d_bottle=4, stages=(2,)), NO_LEAD),
    "PATT in the second block": (
        PattConfig(targets=("k",), d_bottle=4, blocks=(4,)),
        Lead(blocks=1),
    ),
    "norms": (PositionConfig(kinds=("norm1",), stages=(2,)), NO_LEAD),
    "merging alone": (PositionConfig(kinds=("downsample",), stages=(2,)), NO_LEAD),
    "first stage": (replace(PARALLEL, stages=(1, 2)), NO_LEAD),
}


@pytest.fixture(autouse=True)
def _small_blocks_count(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cut, "MIN_WEIGHTS", 0)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("family", ["swin", "videomae"])
def test_training_from_the_cut_equals_training_from_the_clips(name: str, family: str):
    method, lead = CASES[name]
    if family == "videomae" and name == "merging alone":
        pytest.skip("it has no merging")
    config = PetlConfig(methods=(method,))
    model = family_model(family)
    attached = attach(model, config, seed=0)
    assert find_lead(attached) == lead
    attached.detach()
    train, val = FakeClips(48, seed=1), FakeClips(22, seed=2)
    plain = run(model, train, val, None, RECIPE, config)
    train.num_read = 0
    cached = run(model, train, val, FeatureCache(), RECIPE, config)
    assert train.num_read == (48 if name != "first stage" else 3 * 48)
    for one, other in zip(plain, cached, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-4)
        assert one.loss == pytest.approx(other.loss, rel=1e-4)


def test_what_is_dropped_at_times_is_in_no_lead():
    model = family_model("swin")
    attached = attach(model, PetlConfig(methods=(ONE_BLOCK,)), seed=0)
    model.set_drop_path(0.2)
    assert find_lead(attached) == NO_LEAD
    model.set_drop_path(0.0)
    assert find_lead(attached) != NO_LEAD


def test_small_blocks_are_run_anew(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    attached = attach(family_model("swin"), PetlConfig(methods=(ONE_BLOCK,)), seed=0)
    assert find_lead(attached) == NO_LEAD


def test_bitfit_in_all_of_a_stage_leaves_nothing_of_it():
    config = PetlConfig(methods=(PARALLEL, BitFitConfig(stages=(2,))))
    assert find_lead(attach(family_model("swin"), config, seed=0)) == NO_LEAD


@torch.no_grad()
def test_prefix_and_suffix_meet_at_every_lead():
    model = family_model("swin").eval()
    video = torch.randn(2, 3, 4, 16, 16)
    expected = model(video)
    for lead in (
        Lead(blocks=1),
        Lead(blocks=2),
        Lead(has_start=True),
        Lead(blocks=1, has_start=True),
    ):
        logits = model.forward_suffix(model.forward_prefix(video, 1, lead), 1, lead)
        assert torch.allclose(logits, expected, atol=1e-5)
