"""The paper's equations worked out by hand on one whole block, for both families.

The reference cuts no windows: every token attends to every other at once, and which of them it may
see, and what stands between them in the position table, follows from their coordinates alone.
"""

import copy
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, relu

from vpetl_ray.models.arch import BlockSite
from vpetl_ray.models.blocks import Attention, Block
from vpetl_ray.models.window_attention import WindowAttention
from vpetl_ray.petl.methods import (
    AdapterConfig,
    LoraConfig,
    MethodConfig,
    PattConcatConfig,
    PattConfig,
    PattNoZConfig,
    PrefixConfig,
    PromptConfig,
    StAdapterConfig,
)
from vpetl_ray.petl.methods.st_adapter import KERNELS
from vpetl_ray.petl.seeding import seeded

B, C, M = 2, 8, 2
GRID, WINDOW = (4, 4, 6), (2, 2, 3)
ACTIVATIONS = {"relu": relu, "gelu": gelu, "tanh": torch.tanh}


@dataclass(frozen=True)
class Layout:
    """Where tokens stand: a window and a shift (Swin), or all together behind a class token."""

    window: tuple[int, int, int]
    shift: tuple[int, int, int] = (0, 0, 0)
    class_tokens: int = 0
    coordinates: Tensor = field(init=False)

    def __post_init__(self) -> None:
        axes = [torch.arange(size) for size in GRID]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
        object.__setattr__(self, "coordinates", grid - torch.tensor(self.shift))

    @property
    def num_tokens(self) -> int:
        return len(self.coordinates) + self.class_tokens

    def share_window(self) -> Tensor:
        """(N, N): the roll brings what fell off one side to the other side's last windows."""
        return self._agree(self.coordinates % torch.tensor(GRID))

    def are_neighbours(self) -> Tensor:
        """(N, N): in one window without any roll."""
        return self._agree(self.coordinates)

    def _agree(self, coordinates: Tensor) -> Tensor:
        window = coordinates.div(torch.tensor(self.window), rounding_mode="floor")
        agree = (window[:, None] == window[None]).all(-1)
        return nn.functional.pad(agree, (self.class_tokens, 0, self.class_tokens, 0), value=True)

    def place_in_window(self) -> Tensor:
        """(N,): how many tokens of its window stand before it."""
        t, h, w = (self.coordinates % torch.tensor(GRID) % torch.tensor(self.window)).T
        place = (t * self.window[1] + h) * self.window[2] + w + self.class_tokens
        return torch.cat((torch.arange(self.class_tokens), place))

    def position_bias(self, block: Block) -> Tensor:
        """(M, N, N), zero in a ViT; the table's rows are offsets, time first."""
        if not isinstance(block.attn, WindowAttention):
            return torch.zeros(M, self.num_tokens, self.num_tokens)
        table = block.attn.relative_position_bias_table
        table = table.view(*(2 * size - 1 for size in self.window), M)
        bias = torch.zeros(self.num_tokens, self.num_tokens, M, dtype=table.dtype)
        for i, j in self.are_neighbours().nonzero().tolist():
            offset = self.coordinates[i] - self.coordinates[j] + torch.tensor(self.window) - 1
            bias[i, j] = table[tuple(offset.tolist())]
        return bias.permute(2, 0, 1)


LAYOUTS = {
    "swin": Layout(WINDOW),
    "swin shifted": Layout(WINDOW, shift=(1, 1, 1)),
    "vit": Layout(GRID, class_tokens=1),
}


@dataclass(frozen=True)
class Extra:
    """Keys and values (B, P, C) beside the tokens' own, and which token sees them (N, P)."""

    keys: Tensor
    values: Tensor
    seen: Tensor


def block_by_hand(
    block: Block,
    layout: Layout,
    x: Tensor,
    *,
    normed: Tensor | None = None,
    added_to_qkv: Tensor | float = 0.0,
    extra: Extra | None = None,
) -> Tensor:
    """(B, N, C) to (B, N, C) by equations (1) to (4), and what a method adds."""
    z = norm(block.norm1, x) if normed is None else normed
    q, k, v = (linear(block.attn.qkv, z) + added_to_qkv).chunk(3, -1)
    scores = torch.einsum("bimd,bjmd->bmij", split(q), split(k)) / (C // M) ** 0.5
    scores = scores + layout.position_bias(block)
    scores = scores.masked_fill(~layout.are_neighbours(), -torch.inf)
    if extra is not None:
        more = torch.einsum("bimd,bpmd->bmip", split(q), split(extra.keys)) / (C // M) ** 0.5
        scores = torch.cat((scores, more.masked_fill(~extra.seen, -torch.inf)), -1)
        v = torch.cat((v, extra.values), 1)
    out = torch.einsum("bmij,bjmd->bimd", scores.softmax(-1), split(v)).flatten(2)
    x = x + linear(block.attn.proj, out)
    return x + mlp(block, norm(block.norm2, x))


def split(x: Tensor) -> Tensor:
    return x.unflatten(-1, (M, C // M))


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return torch.einsum("...c,oc->...o", x, layer.weight) + layer.bias


def norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    return layer_norm(x, (C,), layer.weight, layer.bias, layer.eps)


def mlp(block: Block, z: Tensor) -> Tensor:
    return linear(block.mlp.fc2, gelu(linear(block.mlp.fc1, z)))


@pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Layout:
    return request.param


@pytest.fixture
def block(layout: Layout) -> Block:
    is_swin = layout.class_tokens == 0
    attn = WindowAttention(C, M, layout.window, layout.shift) if is_swin else Attention(C, M)
    return fill(Block(attn, C, 4 * C))


@pytest.fixture
def x(layout: Layout) -> Tensor:
    return torch.randn(B, layout.num_tokens, C, generator=seeded(1), dtype=torch.float64)


def fill(module: nn.Module) -> nn.Module:
    """Every parameter random, so that none of them hides a mistake, and in double precision."""
    with torch.no_grad():
        for name, parameter in module.double().named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=seeded(0, name)) * 0.4)
    return module


def insert(config: MethodConfig, block: Block, layout: Layout) -> list[nn.Module]:
    """Put the method's branches into the block."""
    size = layout.window
    site = BlockSite(
        stage=1,
        block=1,
        index=0,
        dim=C,
        num_heads=M,
        mlp_dim=4 * C,
        window_tokens=size[0] * size[1] * size[2] + layout.class_tokens,
        class_tokens=layout.class_tokens,
    )
    branches = list(config.branches(site, block, seeded(0)))
    for branch in branches:
        branch.seam.append(fill(branch.module))
    return [branch.module for branch in branches]


@torch.no_grad()
def assert_block_gives(block: Block, layout: Layout, x: Tensor, expected: Tensor) -> None:
    on_grid = x if layout.class_tokens else x.unflatten(1, GRID)
    out = block(on_grid)
    assert torch.allclose(out.reshape(x.shape), expected, atol=1e-9)


@torch.no_grad()
def test_block_alone_is_what_the_reference_says(block: Block, layout: Layout, x: Tensor):
    assert_block_gives(block, layout, x, block_by_hand(block, layout, x))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@torch.no_grad()
def test_prefix_is_equation_5(block: Block, layout: Layout, x: Tensor, activation: str):
    config = PrefixConfig(num_tokens=3, d_middle=5, scale=0.7, activation=activation)
    (prefix,) = insert(config, block, layout)
    act = ACTIVATIONS[activation]
    keys, values = (
        0.7 * linear(layers[2], act(linear(layers[0], prefix.tokens))).expand(B, -1, -1)
        for layers in (prefix.keys, prefix.values)
    )
    extra = Extra(keys, values, seen=torch.ones(layout.num_tokens, 3, dtype=torch.bool))
    assert_block_gives(block, layout, x, block_by_hand(block, layout, x, extra=extra))


@torch.no_grad()
def test_prepended_prompt_is_equation_8(block: Block, layout: Layout, x: Tensor):
    """The norm and the projections are the block's own; every token of every window sees them."""
    (prompt,) = insert(PromptConfig(num_tokens=3, scale=0.7), block, layout)
    _, keys, values = linear(block.attn.qkv, 0.7 * norm(block.norm1, prompt.tokens)).chunk(3, -1)
    seen = torch.ones(layout.num_tokens, 3, dtype=torch.bool)
    extra = Extra(keys.expand(B, -1, -1), values.expand(B, -1, -1), seen)
    assert_block_gives(block, layout, x, block_by_hand(block, layout, x, extra=extra))


@torch.no_grad()
def test_overlapping_prompt_is_equation_8_in_place_of_the_first_tokens(
    block: Block, layout: Layout, x: Tensor
):
    """In a shifted window too it stands where the token stood, with its bias and its mask."""
    (prompt,) = insert(PromptConfig(num_tokens=3, way="overlap", scale=0.7), block, layout)
    number = layout.place_in_window() - layout.class_tokens
    is_replaced = ((number >= 0) & (number < 3))[:, None]
    prompts = 0.7 * norm(block.norm1, prompt.tokens)[number.clamp(0, 2)]
    normed = torch.where(is_replaced, prompts, norm(block.norm1, x))
    assert_block_gives(block, layout, x, block_by_hand(block, layout, x, normed=normed))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@torch.no_grad()
def test_patt_concat_is_equation_9_put_into_equation_5(
    block: Block, layout: Layout, x: Tensor, activation: str
):
    """A window's tokens see all its further keys; the shift's mask is not for them."""
    config = PattConcatConfig(d_bottle=3, scale=0.7, activation=activation)
    (branch,) = insert(config, block, layout)
    hidden = ACTIVATIONS[activation](linear(branch.down, norm(block.norm1, x)))
    keys, values = (0.7 * linear(branch.up, hidden)).chunk(2, -1)
    extra = Extra(keys, values, layout.share_window())
    assert_block_gives(block, layout, x, block_by_hand(block, layout, x, extra=extra))


@pytest.mark.parametrize("targets", ["kv", "qv"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@torch.no_grad()
def test_patt_is_equation_10(
    block: Block, layout: Layout, x: Tensor, activation: str, targets: str
):
    config = PattConfig(targets=tuple(targets), d_bottle=3, scale=0.7, activation=activation)
    (branch,) = insert(config, block, layout)
    hidden = ACTIVATIONS[activation](linear(branch.down, norm(block.norm1, x)))
    expected = block_by_hand(
        block, layout, x, added_to_qkv=spread(0.7 * linear(branch.up, hidden), targets)
    )
    assert_block_gives(block, layout, x, expected)


@pytest.mark.parametrize("num_tokens", [None, 5], ids=["a window's", "fewer, repeated"])
@torch.no_grad()
def test_patt_no_z_is_equation_10_with_a_learned_input_for_each_place_of_a_window(
    block: Block, layout: Layout, x: Tensor, num_tokens: int | None
):
    config = PattNoZConfig(targets=("k", "v"), d_bottle=3, scale=0.7, num_tokens=num_tokens)
    (branch,) = insert(config, block, layout)
    learned = branch.tokens[layout.place_in_window() % len(branch.tokens)]
    delta = 0.7 * linear(branch.up, torch.tanh(linear(branch.down, learned)))
    expected = block_by_hand(block, layout, x, added_to_qkv=spread(delta, "kv"))
    assert_block_gives(block, layout, x, expected)


def spread(delta: Tensor, targets: str) -> Tensor:
    """(..., k C) to (..., 3 C), zero where a part is no target."""
    parts = dict(zip(targets, delta.chunk(len(targets), -1), strict=True))
    return torch.cat([parts.get(part, torch.zeros_like(parts[targets[0]])) for part in "qkv"], -1)


@pytest.mark.parametrize("placement", ["parallel", "sequential"])
@torch.no_grad()
def test_adapter_is_equation_7(block: Block, layout: Layout, x: Tensor, placement: str):
    expected = block_by_hand(block, layout, x)
    before_mlp = expected_before_mlp(block, layout, x)
    config = AdapterConfig(d_bottle=3, scale=0.3, placement=placement)
    (branch,) = insert(config, block, layout)
    z = norm(block.norm2, before_mlp)
    read = z if placement == "parallel" else mlp(block, z)
    delta = 0.3 * linear(branch.up, relu(linear(branch.down, read)))
    assert_block_gives(block, layout, x, expected + delta)


@pytest.mark.parametrize("placement", ["parallel", "sequential"])
@pytest.mark.parametrize("kernel", KERNELS)
@torch.no_grad()
def test_st_adapter_mixes_each_channel_with_its_neighbours_in_time_and_space(
    block: Block, layout: Layout, x: Tensor, kernel: str, placement: str
):
    """Whatever the windows: the convolution runs over the whole clip. A class token is alone."""
    expected = block_by_hand(block, layout, x)
    before_mlp = expected_before_mlp(block, layout, x)
    config = StAdapterConfig(d_bottle=3, kernel=kernel, scale=0.3, placement=placement)
    (branch,) = insert(config, block, layout)
    branch.grid_of = lambda num_tokens: GRID
    z = norm(block.norm2, before_mlp)
    hidden = linear(branch.down, z if placement == "parallel" else mlp(block, z))
    mixed = convolve_by_hand(branch.conv, hidden, layout)
    delta = 0.3 * linear(branch.up, gelu(mixed))
    assert_block_gives(block, layout, x, expected + delta)


def expected_before_mlp(block: Block, layout: Layout, x: Tensor) -> Tensor:
    """What enters norm2: the reference with an MLP that adds nothing."""
    silent = copy.deepcopy(block)
    silent.mlp.fc2.weight.zero_()
    silent.mlp.fc2.bias.zero_()
    return block_by_hand(silent, layout, x)


def convolve_by_hand(conv: nn.Conv3d, x: Tensor, layout: Layout) -> Tensor:
    """Sum over the kernel's places; beyond the clip's edge there is nothing."""
    first = layout.class_tokens
    grid = x[:, first:].unflatten(1, GRID)
    sizes = conv.kernel_size
    out = conv.bias + torch.zeros_like(grid)
    for place in torch.cartesian_prod(*(torch.arange(size) for size in sizes)).tolist():
        offset = [p - size // 2 for p, size in zip(place, sizes, strict=True)]
        weight = conv.weight[:, 0, *place]
        moved = torch.zeros_like(grid)
        to, source = [], []
        for step, size in zip(offset, GRID, strict=True):
            to.append(slice(max(0, -step), size - max(0, step)))
            source.append(slice(max(0, step), size - max(0, -step)))
        moved[:, *to] = grid[:, *source]
        out = out + moved * weight
    middle = conv.weight[:, 0, sizes[0] // 2, sizes[1] // 2, sizes[2] // 2]
    return torch.cat((x[:, :first] * middle + conv.bias, out.flatten(1, 3)), 1)


@pytest.mark.parametrize("alpha", [None, 6.0, "learned"])
@torch.no_grad()
def test_lora_is_the_block_with_alpha_over_rank_times_a_b_added_to_its_weights(
    block: Block, layout: Layout, x: Tensor, alpha: float | str | None
):
    config = LoraConfig(targets=("q", "v", "proj", "fc1", "fc2"), rank=2, alpha=alpha)
    qkv, proj, fc1, fc2 = insert(config, block, layout)
    layers = (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2)
    on_grid = x if layout.class_tokens else x.unflatten(1, GRID)
    out = block(on_grid).reshape(x.shape)
    for layer, low_rank in zip(layers, (qkv, proj, fc1, fc2), strict=True):
        factor = {None: 1.0, 6.0: 3.0}.get(alpha, low_rank.factor)
        parts = [
            up @ down
            for up, down in zip(low_rank.up, low_rank.down.chunk(len(low_rank.up)), strict=True)
        ]
        if layer is block.attn.qkv:
            parts.insert(1, torch.zeros_like(parts[0]))
        layer.weight += factor * torch.cat(parts)
    assert torch.allclose(out, block_by_hand(block, layout, x), atol=1e-9)
