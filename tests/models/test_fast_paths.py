"""What runs in place of torch's own layers gives what they give, forward and backward."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from vpetl_ray.models import small_attention as small
from vpetl_ray.models.linear import ONEDNN_LINEAR, cast_frozen, linear, run_linear

HEADS, DIM = 3, 4


def reference(qkv_RN3C: Tensor, mask_GNN: Tensor) -> Tensor:
    r, n, _ = qkv_RN3C.shape
    q, k, v = qkv_RN3C.view(r, n, 3, HEADS, DIM).permute(2, 0, 3, 1, 4)
    windows = len(mask_GNN) // HEADS
    mask = mask_GNN.view(windows, HEADS, n, n).repeat(r // windows, 1, 1, 1)
    out = scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2).reshape(r, n, HEADS * DIM)


# Scores of 5 tokens take 100 bytes: all at once, several rounds of the mask, a part of one round,
# and the last round cut short.
@pytest.mark.parametrize("cached_bytes", [10**6, 1300, 700, 250])
@pytest.mark.parametrize("windows", [1, 2])
def test_small_attention_equals_torch_in_values_and_gradients(monkeypatch, windows, cached_bytes):
    monkeypatch.setattr(small, "CACHED_BYTES", cached_bytes)
    torch.manual_seed(0)
    mask = torch.randn(windows * HEADS, 5, 5)
    qkv = torch.randn(6, 5, 3 * HEADS * DIM, requires_grad=True)
    weights = torch.randn(6, 5, HEADS * DIM)
    expected = reference(qkv, mask)
    (expected_grad,) = torch.autograd.grad((expected * weights).sum(), qkv)
    before = qkv.detach().clone()
    found = small.small_attention(qkv, mask, HEADS)
    assert found is not None
    (grad,) = torch.autograd.grad((found * weights).sum(), qkv)
    with torch.no_grad():
        without_grad = small.small_attention(qkv, mask, HEADS)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-5, atol=1e-6)
    assert torch.equal(without_grad, found)
    assert torch.equal(qkv, before)


def test_small_attention_in_bfloat16_is_as_near_to_float32_as_torch():
    torch.manual_seed(0)
    mask, weights = torch.randn(2 * HEADS, 5, 5), torch.randn(6, 5, HEADS * DIM)
    qkv = torch.randn(6, 5, 3 * HEADS * DIM)
    results = []
    for run, dtype in [
        (lambda x, m: small.small_attention(x, m, HEADS), torch.bfloat16),
        (reference, torch.bfloat16),
        (reference, torch.float32),
    ]:
        x = qkv.to(dtype).requires_grad_()
        y = run(x, mask.to(dtype))
        (grad,) = torch.autograd.grad((y * weights).sum(), x)
        results.append(torch.cat([y.detach().float().flatten(), grad.float().flatten()]))
    found, torchs, exact = results
    assert (found - exact).norm() < 1.5 * (torchs - exact).norm() < 0.02 * exact.norm()


def test_without_a_mask_bfloat16_alone_takes_this_way():
    torch.manual_seed(0)
    qkv = torch.randn(6, 5, 3 * HEADS * DIM)
    assert small.small_attention(qkv, None, HEADS) is None
    found = small.small_attention(qkv.bfloat16(), None, HEADS)
    assert found is not None
    exact = reference(qkv, torch.zeros(HEADS, 5, 5))
    assert (found.float() - exact).norm() < 0.02 * exact.norm()


def test_one_head_leaves_its_input_as_it_was():
    qkv, mask = torch.randn(2, 5, 12), torch.zeros(1, 5, 5)
    before = qkv.clone()
    assert small.small_attention(qkv, mask, 1) is not None
    assert torch.equal(qkv, before)


@pytest.mark.parametrize(
    "change",
    [
        lambda qkv, mask: (qkv.double(), mask.double()),
        lambda qkv, mask: (qkv.half(), mask.half()),
        lambda qkv, mask: (qkv.bfloat16(), mask),
        lambda qkv, mask: (qkv, mask.requires_grad_()),
        lambda qkv, mask: (qkv.transpose(0, 1), mask),
    ],
    ids=["float64", "float16", "a mask of another type", "a trained table", "not contiguous"],
)
def test_what_is_not_meant_for_it_is_left_to_torch(change):
    qkv, mask = change(torch.randn(6, 6, 3 * HEADS * DIM), torch.zeros(HEADS, 6, 6))
    assert small.small_attention(qkv, mask, HEADS) is None


@pytest.mark.parametrize("shape", [(7, 8), (2, 3, 8), (2, 1, 3, 2, 8)], ids=str)
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_frozen_linear_layer_equals_torch_in_values_and_gradients(shape, has_bias):
    torch.manual_seed(0)
    layer = nn.Linear(8, 5, bias=has_bias).requires_grad_(requires_grad=False)
    x = torch.randn(*shape, requires_grad=True)
    weights = torch.randn(*shape[:-1], 5)
    (expected,) = torch.autograd.grad((layer(x) * weights).sum(), x)
    y = run_linear(layer, x)
    torch.testing.assert_close(y, layer(x), rtol=1e-5, atol=1e-6)
    y = y.add_(1.0)  # as the branches behind it do
    (grad,) = torch.autograd.grad((y * weights).sum(), x)
    torch.testing.assert_close(grad, expected, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(run_linear(layer, x), layer(x), rtol=1e-5, atol=1e-6)


def test_a_layer_that_is_trained_gets_its_gradients():
    layer, x = nn.Linear(4, 3), torch.randn(2, 4, requires_grad=True)
    run_linear(layer, x).sum().backward()
    assert layer.weight.grad is not None
    assert layer.bias.grad is not None


def test_columns_of_a_wider_tensor_are_taken_as_they_lie():
    wide, weight = torch.randn(6, 9), torch.randn(4, 2).t()
    torch.testing.assert_close(linear(wide[:, 3:7], weight, None), wide[:, 3:7] @ weight.t())


def test_torch_still_has_the_operator_where_it_has_onednn():
    assert (ONEDNN_LINEAR is not None) == torch.backends.mkldnn.is_available()


def test_under_autocast_a_frozen_layer_gives_what_torch_gives():
    torch.manual_seed(0)
    layer = nn.Linear(8, 5).requires_grad_(requires_grad=False)
    x = torch.randn(2, 3, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = run_linear(layer, x), layer(x)
    assert torch.equal(y, expected)
    (grad,) = torch.autograd.grad(y.float().square().sum(), x)
    (expected_grad,) = torch.autograd.grad(expected.float().square().sum(), x)
    torch.testing.assert_close(grad, expected_grad)


def test_a_frozen_weight_is_cast_once_until_it_changes():
    weight = torch.randn(3, 4)
    with torch.inference_mode():  # evaluation may come first, training after it
        made = cast_frozen(weight, torch.bfloat16)
    assert not made.is_inference()
    assert cast_frozen(weight, torch.bfloat16) is made
    weight.mul_(2)
    changed = cast_frozen(weight, torch.bfloat16)
    assert torch.equal(changed, weight.bfloat16())
    assert cast_frozen(weight, torch.float32) is weight


def test_a_layer_of_another_type_than_its_input_is_refused_as_by_torch():
    layer = nn.Linear(4, 3).requires_grad_(requires_grad=False)
    with pytest.raises(RuntimeError, match="dtype"):
        run_linear(layer, torch.randn(2, 4, dtype=torch.bfloat16))


@pytest.mark.parametrize(
    "wanted", [(False, True, True), (False, False, True), (True, False, False)]
)
def test_attention_gives_the_gradients_that_are_wanted(wanted):
    torch.manual_seed(0)
    qkv, mask = torch.randn(6, 5, 3 * HEADS * DIM), torch.randn(HEADS, 5, 5)
    _, kept = small.attend(qkv, mask, HEADS, keeps=True)
    grad = torch.randn(6, 5, HEADS * DIM)
    whole = small.attend_backward(grad, *kept, mask, HEADS).chunk(3, -1)
    found = small.attend_backward(grad, *kept, mask, HEADS, wanted).chunk(3, -1)
    for one, other, is_wanted in zip(found, whole, wanted, strict=True):
        assert not is_wanted or torch.equal(one, other)
