import json

import pytest

from vpetl_ray.errors import VpetlError
from vpetl_ray.models.arch import Arch, get_arch
from vpetl_ray.petl.config import PetlConfig, make_method
from vpetl_ray.petl.methods import AdapterConfig, PattConfig

PATT = {"name": "patt", "targets": ["k", "v"], "d_bottle": 8}

BAD = {
    "bottleneck of 0": ({**PATT, "d_bottle": 0}, "patt.d_bottle: must be a whole number of at"),
    "bottleneck of true": ({**PATT, "d_bottle": True}, "got True"),
    "unknown target": ({**PATT, "targets": ["k", "x"]}, "'x' is not allowed; choose from q, k, v"),
    "target that is no list": ({**PATT, "targets": "kv"}, "must be a list of q, k, v"),
    "method that is near": ({**PATT, "name": "pat"}, "did you mean 'patt'?"),
    "setting that is near": ({**PATT, "d_botle": 1}, "did you mean 'd_bottle'?"),
    "missing setting": ({"name": "patt"}, "targets, d_bottle must be given"),
    "no name": ({"d_bottle": 3}, "one of adapter, patt, full"),
    "scale that is a word": ({**PATT, "scale": "big"}, "or 'learned', got 'big'"),
    "scale of 0": ({**PATT, "scale": 0}, "must be a number above 0, got 0"),
    "scale that is no number": ({**PATT, "scale": float("nan")}, "got nan"),
    "activation": ({**PATT, "activation": "geloo"}, "did you mean 'gelu'?"),
    "stage 0": ({**PATT, "stages": [0]}, "patt.stages: must be a whole number of at least 1"),
    "stages that are no list": ({**PATT, "stages": "12"}, "must be a list of stages"),
    "placement": (
        {"name": "adapter", "d_bottle": 2, "placement": "parallels"},
        "did you mean 'parallel'?",
    ),
}


@pytest.mark.parametrize(("values", "message"), BAD.values(), ids=BAD)
def test_bad_method_is_refused_with_a_sentence(values: dict, message: str):
    with pytest.raises(VpetlError) as caught:
        make_method(values)
    assert message in str(caught.value)


def test_stage_that_the_architecture_has_not_is_refused():
    config = PetlConfig(methods=(make_method({**PATT, "stages": [5]}),))
    with pytest.raises(VpetlError, match="stage 5 does not exist; swin3d_b has stages 1 to 4"):
        config.check(get_arch("swin3d_b"))


def test_method_twice_in_one_stage_is_refused(nano: Arch):
    twice = PetlConfig(methods=(AdapterConfig(d_bottle=2), AdapterConfig(d_bottle=4, stages=(3,))))
    with pytest.raises(VpetlError, match=r"adapter\.stages: stage 3 has it already"):
        twice.check(nano)


def test_unknown_key_of_the_config_is_refused():
    with pytest.raises(VpetlError, match="did you mean 'methods'"):
        PetlConfig.from_dict({"method": []})


def test_config_survives_json(nano: Arch):
    config = PetlConfig(
        methods=(make_method(PATT), AdapterConfig(d_bottle=3, scale="learned", stages=(1, 3))),
        train_classifier=False,
    )
    again = PetlConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again.key(nano) == config.key(nano)


def test_different_spellings_of_one_config_have_one_key(nano: Arch):
    patt, adapter = PattConfig(targets=("k", "v"), d_bottle=8), AdapterConfig(d_bottle=4)
    spellings = [
        (patt, adapter),
        (adapter, patt),
        (PattConfig(targets=("v", "k", "k"), d_bottle=8, stages=(3, 1, 2)), adapter),
        (patt, AdapterConfig(d_bottle=4, stages=(2,)), AdapterConfig(d_bottle=4, stages=(3, 1))),
        (patt, adapter, PattConfig(targets=(), d_bottle=99), AdapterConfig(d_bottle=1, stages=())),
    ]
    keys = {PetlConfig(methods=methods).key(nano) for methods in spellings}
    assert len(keys) == 1


def test_what_builds_something_else_has_another_key(nano: Arch):
    configs = [
        PetlConfig(),
        PetlConfig(methods=(make_method(PATT),)),
        PetlConfig(methods=(make_method(PATT),), train_classifier=False),
        PetlConfig(methods=(make_method({**PATT, "scale": 0.5}),)),
        PetlConfig(methods=(make_method({**PATT, "stages": [1, 2]}),)),
        PetlConfig(methods=(make_method({**PATT, "scale": "learned"}),)),
    ]
    assert len({config.key(nano) for config in configs}) == len(configs)
