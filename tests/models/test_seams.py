import pytest
import torch
from torch import Tensor, nn

from vpetl_ray.models.blocks import Attention, Mlp

B, W, N, P, C, M = 2, 3, 5, 4, 8, 2


def by_hand(qkv: Tensor, mask: Tensor, more: Tensor) -> Tensor:
    """One softmax over further tokens, which have no mask, and the window's own."""
    q, k, v = (part.unflatten(-1, (M, C // M)).transpose(1, 2) for part in qkv.chunk(3, -1))
    more_k, more_v = (part.unflatten(-1, (M, C // M)).transpose(1, 2) for part in more.chunk(2, -1))
    scores = q @ k.mT / (C // M) ** 0.5 + mask
    more_scores = q @ more_k.mT / (C // M) ** 0.5
    weights = torch.cat((more_scores, scores), -1).softmax(-1)
    out = weights @ torch.cat((more_v, v), 2)
    return out.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("num_windows", [1, W], ids=["one mask", "a mask for each window"])
def test_further_tokens_are_attended_to_without_a_mask(num_windows: int):
    torch.manual_seed(0)
    qkv, more = torch.randn(B * W, N, 3 * C), torch.randn(B * W, P, 2 * C)
    mask = torch.randn(num_windows, M, N, N)
    out = Attention(C, M).attend(qkv, mask.flatten(0, 1)[None], num_windows, more)
    expected = by_hand(qkv, mask.repeat(B * W // num_windows, 1, 1, 1), more)
    assert torch.allclose(out, expected, atol=1e-5)


def test_further_tokens_without_any_mask():
    torch.manual_seed(0)
    qkv, more = torch.randn(B, N, 3 * C), torch.randn(B, P, 2 * C)
    out = Attention(C, M).attend(qkv, more_kv=more)
    assert torch.allclose(out, by_hand(qkv, torch.zeros(N, N), more), atol=1e-5)


def test_several_branches_give_tokens_side_by_side():
    class Gives(nn.Module):
        def __init__(self, value: float, rows: int) -> None:
            super().__init__()
            self.more = torch.full((rows, 2, 2 * C), value)

        def forward(self, z: Tensor) -> Tensor:
            return self.more

    attention = Attention(C, M)
    assert attention.to_more_kv(torch.zeros(B, N, C)) is None
    attention.kv_branches.extend([Gives(1.0, 1), Gives(2.0, B)])
    more = attention.to_more_kv(torch.zeros(B, N, C))
    assert more[..., 0].tolist() == [[1.0, 1.0, 2.0, 2.0]] * B


def test_branches_of_the_mlp_get_what_enters_and_leaves_each_layer(add_branch):
    mlp = Mlp(C, 3 * C)
    first, second = add_branch(mlp.fc1_branches), add_branch(mlp.fc2_branches)
    z = torch.randn(B, N, C)
    mlp(z)
    for layer, calls in ((mlp.fc1, first), (mlp.fc2, second)):
        x, y = calls[0]
        assert torch.allclose(layer(x), y)
    assert torch.equal(first[0][0], z)
