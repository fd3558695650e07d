import pytest
import torch
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

from vpetl_ray.models.windows import relative_position_index, shift_mask, window_plan

GRIDS = {
    "divides": (8, 6, 6),
    "needs padding": (5, 7, 8),
    "clipped in time": (2, 6, 9),
    "one window": (4, 3, 3),
    "smaller than a window": (2, 2, 3),
}


@pytest.mark.parametrize("shift", [(0, 0, 0), (2, 1, 1)], ids=["plain", "shifted"])
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_merge_undoes_partition(grid, shift):
    plan = window_plan(grid, (4, 3, 3), shift)
    x = torch.randn(2, *grid, 5)
    windows = plan.partition(x)
    assert windows.shape == (2 * plan.num_windows, plan.num_tokens, 5)
    assert torch.equal(plan.merge(windows), x)
    tracked = x.clone().requires_grad_()  # goes the way that autograd can follow
    assert torch.equal(plan.partition(tracked), windows)
    assert torch.equal(plan.merge(windows.clone().requires_grad_()), x)


@pytest.mark.parametrize("shift", [(0, 0, 0), (2, 1, 1)], ids=["plain", "shifted"])
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_gradient_through_partition_and_merge_is_the_identity(grid, shift):
    plan = window_plan(grid, (4, 3, 3), shift)
    x = torch.randn(2, *grid, 5, requires_grad=True)
    weight = torch.randn(2, *grid, 5)
    (plan.merge(plan.partition(x) * 3.0) * weight).sum().backward()
    assert torch.allclose(x.grad, 3.0 * weight)


def test_an_axis_with_one_window_is_not_shifted():
    assert window_plan((4, 9, 3), (4, 3, 3), (2, 1, 1)).shift == (0, 1, 0)


def test_shift_mask_blocks_only_windows_that_the_roll_has_mixed():
    plan = window_plan((4, 6, 6), (4, 3, 3), (2, 1, 1))
    mask = shift_mask(plan)
    assert mask.shape == (4, 36, 36)
    assert not mask[0].any()
    assert all(mask[i].any() for i in (1, 2, 3))
    assert torch.equal(mask, mask.transpose(1, 2))


@pytest.mark.parametrize("clipped", [(4, 3, 3), (2, 3, 3), (2, 2, 3)])
def test_relative_position_index_takes_the_first_rows_as_torchvision_does(clipped):
    peer = ShiftedWindowAttention3d(8, [4, 3, 3], [0, 0, 0], 2).relative_position_index
    tokens = clipped[0] * clipped[1] * clipped[2]
    index = torch.from_numpy(relative_position_index((4, 3, 3), tokens))
    assert torch.equal(index, peer[:tokens, :tokens])
