import pytest
import torch

from vpetl_ray.errors import VpetlError
from vpetl_ray.models.arch import BlockSite, get_arch
from vpetl_ray.models.build import build_model
from vpetl_ray.petl.attach import attach
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.methods import StAdapterConfig
from vpetl_ray.petl.seeding import seeded

T, H, W, C = 3, 2, 4, 6


def adapter(class_tokens: int):
    site = BlockSite(
        stage=1,
        block=1,
        index=0,
        dim=C,
        num_heads=2,
        mlp_dim=4 * C,
        window_tokens=T * H * W,
        class_tokens=class_tokens,
    )
    module = StAdapterConfig(d_bottle=2, kernel="3x3x3").build(site, torch.Generator())
    torch.nn.init.normal_(module.up.weight)
    module.grid_of = lambda num_tokens: (T, H, W)
    return module


def test_tokens_in_a_row_give_what_tokens_on_a_grid_do():
    torch.manual_seed(0)
    z, h = torch.randn(2, T, H, W, C), torch.randn(2, T, H, W, C)
    module = adapter(class_tokens=0)
    row = module(z.flatten(1, 3), h.flatten(1, 3))
    assert torch.allclose(row, module(z, h).flatten(1, 3), atol=1e-6)


def test_class_token_neither_gives_to_nor_takes_from_its_neighbours():
    torch.manual_seed(0)
    z = torch.randn(2, 1 + T * H * W, C)
    module = adapter(class_tokens=1)
    other = z.clone()
    other[:, 0] += 1.0
    out, changed = module(z, torch.zeros_like(z)), module(other, torch.zeros_like(z))
    assert torch.equal(out[:, 1:], changed[:, 1:])
    assert not torch.allclose(out[:, 0], changed[:, 0])


def test_vit_tells_the_grid_of_the_clip_that_it_embedded_last():
    model = build_model(get_arch("vit_nano_videomae"), 3)
    assert model.grid_of(4 * 8 * 8) == (4, 8, 8)
    model.embed(torch.zeros(1, 3, 8, 16, 64))
    assert model.grid_of(4 * 4 * 16) == (4, 4, 16)
    assert model.grid_of(2 * 8 * 8) == (2, 8, 8)
    with pytest.raises(VpetlError, match="77 tokens in a row are no grid"):
        model.grid_of(77)


@pytest.mark.parametrize("size", [(4, 32, 32), (8, 48, 16)], ids=["frames", "shape"])
@pytest.mark.parametrize("name", ["vit_nano_mae", "vit_nano_videomae", "swin3d_nano"])
def test_other_clip_sizes_work(name: str, size: tuple[int, int, int]):
    model = build_model(get_arch(name), 3).eval()
    video = torch.randn(1, 3, *size)
    with torch.no_grad():
        before = model.forward_prefix(video, model.arch.num_stages)
        attach(model, PetlConfig(methods=(StAdapterConfig(d_bottle=2),)), seed=0)
        after = model.forward_prefix(video, model.arch.num_stages)
    assert torch.allclose(before, after, atol=1e-6)


def test_gradient_of_the_kernel_in_bfloat16_is_that_of_float32():
    """The CPU's own bfloat16 kernel leaves it unwritten on grids as small as a last stage's."""
    torch.manual_seed(0)
    module = StAdapterConfig(d_bottle=2).build(get_arch("swin3d_nano").blocks()[0], seeded(0))
    torch.nn.init.normal_(module.up.weight)
    z = torch.randn(8, 2, 4, 4, 32)
    gradients = []
    for is_rounded in (False, True):
        module.zero_grad()
        unwritten = [torch.full((size,), 1e30) for size in (64, 1000, 5000, 20000)]
        del unwritten  # what the allocator hands out next
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_rounded):
            out = module(z, torch.zeros_like(z))
        out.float().square().sum().backward()
        gradients.append(module.conv.weight.grad.clone())
    exact, rounded = gradients
    assert (rounded - exact).norm() < 0.03 * exact.norm()
