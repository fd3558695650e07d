"""ST-Adapter: an adapter that sees its neighbours (Pan et al. 2022, arXiv 2206.13559).

Pan et al. put it in front of a block's layers; here it stands where the adapter does, beside or
after the MLP, so that the two differ by the convolution alone.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from vpetl_ray.models.arch import BlockSite
from vpetl_ray.models.arch_base import Size
from vpetl_ray.models.work import BlockWork, linear_flops
from vpetl_ray.petl.bottleneck import (
    ACTIVATIONS,
    Bottleneck,
    Scale,
    bottleneck_flops,
    check_scale,
    count_bottleneck,
)
from vpetl_ray.petl.checks import check_choice, check_whole_number
from vpetl_ray.petl.method import Backbone, Block, Branch, Placement, SeamMethod
from vpetl_ray.petl.methods.adapter import PLACEMENTS

DEFAULT_SCALE = 1.0
"""That of Pan et al.; a learned scale starts there."""
KERNELS: Mapping[str, Size] = {"3x1x1": (3, 1, 1), "1x3x3": (1, 3, 3), "3x3x3": (3, 3, 3)}
"""Sizes along (time, height, width)."""


@dataclass(frozen=True, kw_only=True)
class StAdapterConfig(SeamMethod):
    """`s * (act(DWConv(x W_down + b)) W_up + b)`, added to the output of the MLP."""

    name: ClassVar[str] = "st_adapter"
    identity_at_start: ClassVar[bool] = True

    d_bottle: int
    """Width of the bottleneck."""
    kernel: str = "3x1x1"
    """Of the depth-wise convolution, along time, height and width: 3x1x1, 1x3x3 or 3x3x3."""
    scale: Scale = DEFAULT_SCALE
    """The factor s: a number, or `learned`, which trains one number a block."""
    placement: Literal["parallel", "sequential"] = "parallel"
    """Whether it reads the MLP's input (beside it) or the MLP's output (after it)."""
    activation: str = "gelu"
    """relu, gelu or tanh."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole_number("st_adapter.d_bottle", self.d_bottle, at_least=1)
        check_choice("st_adapter.kernel", self.kernel, tuple(KERNELS))
        check_scale("st_adapter.scale", self.scale)
        check_choice("st_adapter.placement", self.placement, PLACEMENTS)
        check_choice("st_adapter.activation", self.activation, tuple(ACTIVATIONS))

    def count_block(self, site: BlockSite) -> int:
        """Those of an adapter, and k b + b for a kernel of k numbers."""
        conv = (prod(KERNELS[self.kernel]) + 1) * self.d_bottle
        return count_bottleneck(site.dim, self.d_bottle, site.dim, self.scale) + conv

    def block_flops(self, site: BlockSite, work: BlockWork, qkv_rows: int) -> int:
        """Of the bottleneck and its convolution, once a token."""
        conv = linear_flops(work.tokens, prod(KERNELS[self.kernel]), self.d_bottle)
        return bottleneck_flops(work.tokens, site.dim, self.d_bottle, site.dim) + conv

    def seam(self, block: Block) -> nn.ModuleList:
        """Beside the MLP, inside its residual branch."""
        return block.mlp_branches

    def build(self, site: BlockSite, generator: torch.Generator) -> nn.Module:
        """Build the branch for one block."""
        return StAdapter(
            dim=site.dim,
            d_bottle=self.d_bottle,
            out_dim=site.dim,
            activation=self.activation,
            scale=self.scale,
            learned_start=DEFAULT_SCALE,
            generator=generator,
            kernel=KERNELS[self.kernel],
            is_parallel=self.placement == "parallel",
            class_tokens=site.class_tokens,
        )

    def place(self, model: Backbone, seed: int) -> Iterator[Placement]:
        """Put branches into the chosen blocks, and tell them how tokens in a row stand."""
        for placement in super().place(model, seed):
            assert isinstance(placement, Branch)
            assert isinstance(placement.module, StAdapter)
            placement.module.grid_of = model.grid_of
            yield placement


class StAdapter(Bottleneck):
    """A bottleneck with a depth-wise convolution over time and space in its middle.

    Args:
        kernel: size along (time, height, width).
        is_parallel: whether it reads the MLP's input, or its output.
        class_tokens: how many tokens of a row, the first, are convolved each alone.
        generator: draws every weight.
        bottleneck: see `Bottleneck`.

    """

    grid_of: Callable[[int], Size]
    """Given by the backbone, for tokens that stand in a row."""

    def __init__(
        self,
        *,
        kernel: Size,
        is_parallel: bool,
        class_tokens: int,
        generator: torch.Generator,
        **bottleneck: Any,
    ) -> None:
        super().__init__(generator=generator, **bottleneck)
        self.is_parallel = is_parallel
        self.class_tokens = class_tokens
        width = self.down.out_features
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        conv = nn.Conv3d(width, width, kernel, padding=padding, groups=width, device="meta")
        self.conv = conv.to_empty(device="cpu")
        bound = prod(kernel) ** -0.5
        with torch.no_grad():
            self.conv.weight.uniform_(-bound, bound, generator=generator)
            assert self.conv.bias is not None
            self.conv.bias.zero_()

    def forward(self, z: Tensor, h: Tensor) -> Tensor:
        """(output of norm2, output of the MLP), both (..., C), to (..., C)."""
        hidden = self.activation(self._mix(self.down(z if self.is_parallel else h)))
        return h + nn.functional.linear(hidden, *self.up_projection())

    def _mix(self, x: Tensor) -> Tensor:
        """(B, T, H, W, D), or (B, N, D) with tokens in a row, to the same."""
        if x.dim() == 5:
            return self._convolve(x)
        class_BND, x_BND = x[:, : self.class_tokens], x[:, self.class_tokens :]
        t, h, w = self.grid_of(x.shape[1])
        x_BTHWD = x_BND.reshape(len(x), t, h, w, -1)
        y_BND = self._convolve(x_BTHWD).flatten(1, 3)
        if not self.class_tokens:
            return y_BND
        alone = self._convolve(class_BND.reshape(-1, 1, 1, 1, x.shape[-1]))
        return torch.cat((alone.view(class_BND.shape), y_BND), 1)

    def _convolve(self, x_BTHWD: Tensor) -> Tensor:
        """(B, T, H, W, D) to the same, in float32 at least, whatever the autocast.

        In bfloat16 on the CPU the gradient of a depth-wise kernel over few channels-last tokens
        is memory that nobody has written (torch 2.15, a grid of 2 x 4 x 4 for instance).
        """
        conv = self.conv
        assert conv.bias is not None
        dtype = torch.promote_types(x_BTHWD.dtype, torch.float32)
        with torch.autocast(x_BTHWD.device.type, enabled=False):
            y_BDTHW = nn.functional.conv3d(
                x_BTHWD.to(dtype).permute(0, 4, 1, 2, 3),
                conv.weight.to(dtype),
                conv.bias.to(dtype),
                padding=conv.padding,
                groups=conv.groups,
            )
        return y_BDTHW.permute(0, 2, 3, 4, 1).to(x_BTHWD.dtype)
