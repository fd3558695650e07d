import pytest
import torch
from torch.nn.functional import gelu, linear, relu

from vpetl_ray.models.arch import BlockSite
from vpetl_ray.petl.bottleneck import add_up_projection
from vpetl_ray.petl.methods import AdapterConfig, PattConfig
from vpetl_ray.petl.seeding import seeded

SITE = BlockSite(stage=1, block=1, index=0, dim=6, num_heads=2, mlp_dim=24, window_tokens=8)
ACTIVATIONS = {"relu": relu, "gelu": gelu, "tanh": torch.tanh}


@pytest.mark.parametrize(
    "runs",
    [(slice(None),), (slice(3, 9),), (slice(0, 3), slice(6, 9))],
    ids=["all columns", "one run", "two runs"],
)
def test_up_projection_and_its_gradients_equal_plain_autograd(runs: tuple[slice, ...]):
    hidden, output, x = _double(2, 4, 5), _double(2, 4, 9), _double(2, 4, 9)
    width = len(torch.cat([torch.arange(9)[run] for run in runs]))
    weight, bias = _double(width, 5), _double(width)
    inputs = (x, hidden, weight, bias)

    def fast(x, hidden, weight, bias):
        return add_up_projection(x * output, hidden, weight, bias, runs)

    def plain(x, hidden, weight, bias):
        delta = linear(hidden, weight, bias)
        spread = torch.zeros(2, 4, 9, dtype=torch.float64)
        columns = torch.cat([torch.arange(9)[run] for run in runs])
        return x * output + spread.index_copy(2, columns, delta)

    assert torch.allclose(fast(*inputs), plain(*inputs))
    assert torch.autograd.gradcheck(fast, inputs)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("targets", ["q", "kv", "qv", "qkv"])
def test_patt_is_equation_10(targets: str, activation: str):
    config = PattConfig(targets=tuple(targets), d_bottle=4, scale=0.7, activation=activation)
    branch = config.build(SITE, seeded(0)).double()
    _fill(branch)
    z, qkv = _double(3, 8, 6), _double(3, 8, 18)
    up = branch.up.weight.unflatten(0, (len(targets), 6))
    bias = branch.up.bias.unflatten(0, (len(targets), 6))
    hidden = ACTIVATIONS[activation](linear(z, branch.down.weight, branch.down.bias))
    expected = qkv.detach().clone()
    for i, target in enumerate(targets):
        start = "qkv".index(target) * 6
        expected[..., start : start + 6] += 0.7 * (linear(hidden, up[i]) + bias[i])
    assert torch.allclose(branch(z, qkv.detach().clone()), expected)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_parallel_adapter_is_equation_7(activation: str):
    branch = AdapterConfig(d_bottle=4, scale=0.3, activation=activation).build(SITE, seeded(0))
    _fill(branch.double())
    z, h = _double(2, 5, 6), _double(2, 5, 6)
    hidden = ACTIVATIONS[activation](linear(z, branch.down.weight, branch.down.bias))
    expected = h + 0.3 * linear(hidden, branch.up.weight, branch.up.bias)
    assert torch.allclose(branch(z, h.detach().clone()), expected)


def test_sequential_adapter_reads_the_output_of_the_mlp():
    config = AdapterConfig(d_bottle=4, scale=0.3, placement="sequential")
    branch = config.build(SITE, seeded(0)).double()
    _fill(branch)
    z, h = _double(2, 5, 6), _double(2, 5, 6)
    hidden = relu(linear(h, branch.down.weight, branch.down.bias))
    expected = h + 0.3 * linear(hidden, branch.up.weight, branch.up.bias)
    assert torch.allclose(branch(z, h), expected)


@pytest.mark.parametrize("name", ["adapter", "patt"])
def test_learned_scale_is_one_parameter_that_acts_like_the_number(name: str):
    make = {
        "adapter": lambda scale: AdapterConfig(d_bottle=4, scale=scale),
        "patt": lambda scale: PattConfig(targets=("k", "v"), d_bottle=4, scale=scale),
    }[name]
    columns = 6 if name == "adapter" else 18
    learned = make("learned").build(SITE, seeded(0))
    fixed = make(learned.scale.item()).build(SITE, seeded(0))
    assert make("learned").count_block(SITE) == make(1.0).count_block(SITE) + 1
    _fill(learned)
    _fill(fixed)
    z, out = _double(2, 8, 6).float(), _double(2, 8, columns).float()
    result = learned(z, out.detach().clone())
    assert torch.allclose(result, fixed(z, out.detach().clone()), atol=1e-6)
    result.square().sum().backward()
    assert learned.scale.grad.abs() > 0


@pytest.mark.parametrize("config", [AdapterConfig(d_bottle=4, scale=1e-9)], ids=["adapter"])
def test_tiny_scale_equals_the_frozen_output(config: AdapterConfig):
    branch = config.build(SITE, seeded(0))
    _fill(branch)
    z, h = torch.randn(2, 5, 6), torch.randn(2, 5, 6)
    assert torch.allclose(branch(z, h.clone()), h, atol=1e-6)


def _double(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=True)


def _fill(branch: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, parameter in branch.named_parameters():
            if name != "scale":
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
