import pytest
import torch

from vpetl_ray.errors import VpetlError
from vpetl_ray.models.arch import get_arch
from vpetl_ray.models.backbone import Backbone
from vpetl_ray.petl.attach import attach
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.count import count_trainable
from vpetl_ray.petl.methods import BitFitConfig, FullConfig, PattConfig, PositionConfig
from vpetl_ray.petl.methods.position import kinds_of


@pytest.mark.every_backbone
def test_table_of_own_tensors_is_the_model(model: Backbone):
    listed = {tensor.name: tensor.size for tensor in model.arch.own_tensors()}
    built = {name: p.numel() for name, p in model.named_parameters() if "head" not in name}
    assert listed == built


@pytest.mark.every_backbone
def test_biases_are_what_is_called_so(model: Backbone):
    listed = {tensor.name for tensor in model.arch.own_tensors() if tensor.is_bias}
    called = {n for n, _ in model.named_parameters() if n.endswith("bias") and "head" not in n}
    assert listed == called


@pytest.mark.every_backbone
def test_each_kind_alone_trains_what_is_called_so(model: Backbone):
    """Table 1 of the paper, position by position."""
    for kind in kinds_of(model.arch):
        attached = attach(
            model,
            PetlConfig(methods=(PositionConfig(kinds=(kind,)),), train_classifier=False),
            seed=0,
        )
        part = {"rel_pos": "relative_position_bias_table"}.get(kind, kind)
        wanted = {
            f"backbone.{name}"
            for name, _ in model.named_parameters()
            if f".{part}" in name and not name.startswith("patch_embed")
        }
        assert set(attached.trainable) == wanted
        attached.detach()


def test_kind_that_a_backbone_has_not_is_refused():
    config = PetlConfig(methods=(PositionConfig(kinds=("rel_pos", "qkv")),))
    with pytest.raises(VpetlError, match="vit_nano_mae has no rel_pos; it has norm1, qkv, proj"):
        config.check(get_arch("vit_nano_mae"))


def test_merging_behind_the_last_stage_is_nothing(nano):
    nothing = PetlConfig(methods=(PositionConfig(kinds=("downsample",), stages=(3,)),))
    assert nothing.canonical(nano).methods == ()
    assert nothing.key(nano) == PetlConfig().key(nano)


def test_spellings_of_full_tuning_have_one_key(nano):
    full, norms = FullConfig(), PositionConfig(kinds=("norm1",))
    spellings = [(full,), (norms, full), (full, BitFitConfig()), (FullConfig(stages=(1, 2, 3)),)]
    keys = {PetlConfig(methods=methods).key(nano) for methods in spellings}
    assert len(keys) == 1


def test_tensor_of_two_methods_is_trained_and_counted_once(model: Backbone):
    methods = (PositionConfig(kinds=("norm1", "fc1")), BitFitConfig(), FullConfig(stages=(2,)))
    config = PetlConfig(methods=methods)
    attached = attach(model, config, seed=0)
    built = sum(p.numel() for p in attached.trainable.values())
    assert built == count_trainable(config, model.arch, model.head.out_features).total
    assert attached.first_depth == 0


def test_features_below_a_tuned_stage_stay_frozen(model: Backbone, video: torch.Tensor):
    methods = (FullConfig(stages=(3,)), PattConfig(targets=("k",), d_bottle=1, stages=(2,)))
    attached = attach(model, PetlConfig(methods=methods), seed=0)
    assert attached.first_depth == 1
    assert not model.forward_prefix(video, 1).requires_grad
