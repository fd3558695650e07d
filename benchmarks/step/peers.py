"""Plain models with the same adapters and PATT put in by replacing forwards, as people do.

torchvision's `swin3d` and transformers' VideoMAE stay what they are; a block's forward gets the
bottleneck beside its MLP, its attention's forward the bottleneck beside keys and values. What
AdaptFormer's own code does, in the fewest lines.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad, scaled_dot_product_attention, softmax
from torchvision.models.swin_transformer import SwinTransformerBlock
from torchvision.models.video import swin_transformer as tv
from transformers import VideoMAEConfig, VideoMAEForVideoClassification
from transformers.models.videomae import modeling_videomae as hf

from vpetl_ray.models.arch import Arch, BlockSite, SwinArch, ViTArch
from vpetl_ray.models.build import build_model
from vpetl_ray.models.checkpoints import load_backbone
from vpetl_ray.petl.attach import Attached, attach
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.methods import AdapterConfig, PattConfig

ADAPTER_SCALE, PATT_SCALE = 0.1, 0.8


class Bottleneck(nn.Module):
    """Down, activation, up."""

    def __init__(self, dim: int, width: int, out_dim: int, activation: nn.Module) -> None:
        super().__init__()
        self.down = nn.Linear(dim, width)
        self.activation = activation
        self.up = nn.Linear(width, out_dim)

    def change(self, z: Tensor) -> Tensor:
        return self.up(self.activation(self.down(z)))


class Adapter(Bottleneck):
    """Beside the MLP, which turned z into h, or after it."""

    def __init__(
        self, dim: int, width: int, *, scale: float = ADAPTER_SCALE, is_sequential: bool = False
    ) -> None:
        super().__init__(dim, width, dim, nn.ReLU())
        self.scale, self.is_sequential = scale, is_sequential

    def forward(self, z: Tensor, h: Tensor) -> Tensor:
        return h + self.scale * self.change(h if self.is_sequential else z)


class Patt(Bottleneck):
    """Beside some of queries, keys and values, which z turned into."""

    def __init__(
        self, dim: int, width: int, *, targets: Sequence[str] = "kv", scale: float = PATT_SCALE
    ) -> None:
        super().__init__(dim, width, len(targets) * dim, nn.Tanh())
        self.scale, self.targets = scale, targets

    def forward(self, z: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        more = (self.scale * self.change(z)).chunk(len(self.targets), -1)
        parts = {"q": q, "k": k, "v": v}
        for target, part in zip(self.targets, more, strict=True):
            parts[target] = parts[target] + part
        return tuple(parts.values())


MakeMethods = Callable[[BlockSite], dict[str, Bottleneck]]
"""What goes into a block, called `adapter` and `patt`."""


def make_pair(
    arch: Arch, size: tuple[int, int, int], adapter: int, patt: int, num_classes: int
) -> tuple[nn.Module, Attached]:
    """The peer, and our model with the same weights, Swin-BAPAT in both.

    Up-projections are moved off zero, so that every gradient has something to say.
    """
    is_swin = isinstance(arch, SwinArch)
    peer = plain_swin(arch, num_classes) if is_swin else _vit(arch, size, num_classes)
    ours = build_model(arch, num_classes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "peer.pth"
        torch.save(peer.state_dict(), path)
        load_backbone(ours, path)
    methods = (
        AdapterConfig(d_bottle=adapter, scale=ADAPTER_SCALE),
        PattConfig(targets=("k", "v"), d_bottle=patt, scale=PATT_SCALE),
    )
    attached = attach(ours, PetlConfig(methods=methods), seed=0)
    with torch.no_grad():
        for parameter in attached.trainable.values():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    peer.requires_grad_(requires_grad=False)
    insert = insert_into_swin if is_swin else _into_vit
    insert(peer, arch, lambda site: _bapat(site.dim, adapter, patt))
    copy_trainable(attached, peer)
    return peer, attached


def _bapat(dim: int, adapter: int, patt: int) -> dict[str, Bottleneck]:
    return {"adapter": Adapter(dim, adapter), "patt": Patt(dim, patt)}


def copy_trainable(attached: Attached, peer: nn.Module) -> None:
    """Give the peer the values that ours has; the same tensors must be trained in both."""
    theirs = trainable_by_our_name(peer, attached.model.arch)
    assert theirs.keys() == attached.trainable.keys(), theirs.keys() ^ attached.trainable.keys()
    with torch.no_grad():
        for name, parameter in theirs.items():
            parameter.copy_(attached.trainable[name])


def trainable_by_our_name(peer: nn.Module, arch: Arch) -> dict[str, nn.Parameter]:
    """What the peer trains, called as `Attached.trainable` calls it."""
    found: dict[str, nn.Parameter] = {}
    for site, block in zip(arch.blocks(), _blocks_of(peer), strict=True):
        for kind in ("adapter", "patt"):
            if hasattr(block, kind):
                prefix = f"{kind}.stage{site.stage}.block{site.block}."
                bottleneck: Bottleneck = getattr(block, kind)
                found |= {prefix + name: p for name, p in bottleneck.named_parameters()}
    head = peer.head if isinstance(arch, SwinArch) else peer.classifier
    if not head.weight.requires_grad:
        return found
    return found | {f"head.{name}": p for name, p in head.named_parameters()}


def _blocks_of(peer: nn.Module) -> list[nn.Module]:
    kinds = (SwinTransformerBlock, hf.VideoMAELayer)
    return [module for module in peer.modules() if isinstance(module, kinds)]


def plain_swin(arch: SwinArch, num_classes: int) -> nn.Module:
    return tv.SwinTransformer3d(
        patch_size=list(arch.patch_size),
        embed_dim=arch.embed_dim,
        depths=list(arch.depths),
        num_heads=list(arch.num_heads),
        window_size=list(arch.window_size),
        stochastic_depth_prob=0.0,
        num_classes=num_classes,
    )


def insert_into_swin(model: nn.Module, arch: Arch, make: MakeMethods) -> None:
    _insert(model, arch, make, _swin_block)
    model.head.requires_grad_(requires_grad=True)


def _insert(
    model: nn.Module, arch: Arch, make: MakeMethods, forward: Callable[..., Tensor]
) -> None:
    """Blocks that get nothing keep the forward they have."""
    for site, block in zip(arch.blocks(), _blocks_of(model), strict=True):
        methods = make(site)
        for kind, module in methods.items():
            block.add_module(kind, module)
        if methods:
            block.forward = MethodType(forward, block)


def _swin_block(self: SwinTransformerBlock, x: Tensor) -> Tensor:
    patt, adapter = getattr(self, "patt", None), getattr(self, "adapter", None)
    z = self.norm1(x)
    x = x + self.stochastic_depth(_swin_attention(self.attn, z, patt) if patt else self.attn(z))
    z = self.norm2(x)
    h = self.mlp(z)
    return x + self.stochastic_depth(adapter(z, h) if adapter else h)


def _swin_attention(attn: tv.ShiftedWindowAttention3d, x: Tensor, patt: Patt) -> Tensor:
    """torchvision's steps, with PATT beside the projection."""
    b, t, h, w, c = x.shape
    window, shift = tv._get_window_and_shift_size(
        attn.shift_size.copy(), [t, h, w], attn.window_size.copy()
    )
    bias = attn.get_relative_position_bias(window)
    pt, ph, pw = tv._compute_pad_size_3d((t, h, w), tuple(window))
    x = pad(x, (0, 0, 0, pw, 0, ph, 0, pt))
    padded = (t + pt, h + ph, w + pw)
    if sum(shift) > 0:
        x = torch.roll(x, [-s for s in shift], (1, 2, 3))
    nt, nh, nw = (size // win for size, win in zip(padded, window, strict=True))
    x = x.view(b, nt, window[0], nh, window[1], nw, window[2], c)
    x = x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(b * nt * nh * nw, -1, c)
    heads = attn.num_heads
    qkv = linear(x, attn.qkv.weight, attn.qkv.bias)
    q, k, v = (
        part.reshape(x.size(0), x.size(1), heads, c // heads).transpose(1, 2)
        for part in patt(x, *qkv.chunk(3, -1))
    )
    scores = (q * (c // heads) ** -0.5) @ k.transpose(-2, -1) + bias
    if sum(shift) > 0:
        mask = tv._compute_attention_mask_3d(x, padded, tuple(window), tuple(shift))
        scores = scores.view(-1, len(mask), heads, *mask.shape[1:]) + mask[None, :, None]
        scores = scores.view(-1, heads, *mask.shape[1:])
    x = (softmax(scores, -1) @ v).transpose(1, 2).reshape(x.shape)
    x = linear(x, attn.proj.weight, attn.proj.bias)
    x = x.view(b, nt, nh, nw, *window, c).permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(b, *padded, c)
    if sum(shift) > 0:
        x = torch.roll(x, shift, (1, 2, 3))
    return x[:, :t, :h, :w].contiguous()


def _vit(arch: ViTArch, size: tuple[int, int, int], num_classes: int) -> nn.Module:
    config = VideoMAEConfig(
        image_size=size[1],
        patch_size=arch.patch_size[1],
        num_frames=size[0],
        tubelet_size=arch.patch_size[0],
        hidden_size=arch.embed_dim,
        num_hidden_layers=sum(arch.depths),
        num_attention_heads=arch.num_heads,
        intermediate_size=int(arch.embed_dim * arch.mlp_ratio),
        layer_norm_eps=arch.norm_eps,
        hidden_act="gelu",
        num_labels=num_classes,
        use_mean_pooling=True,
        attn_implementation="sdpa",
    )
    model = VideoMAEForVideoClassification(config)
    model.fc_norm.eps = arch.norm_eps  # it takes torch's, whatever the config says
    return model


def _into_vit(model: nn.Module, arch: Arch, make: MakeMethods) -> None:
    _insert(model, arch, make, _vit_block)
    model.classifier.requires_grad_(requires_grad=True)


def _vit_block(self: hf.VideoMAELayer, x: Tensor, **_: object) -> Tensor:
    z = self.layernorm_before(x)
    attn = self.attention.attention
    parts = self.patt(z, attn.query(z), attn.key(z), attn.value(z))
    q, k, v = (p.unflatten(-1, (attn.num_attention_heads, -1)).transpose(1, 2) for p in parts)
    out = scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(z.shape)
    x = self.attention.output(out, x) + x
    z = self.layernorm_after(x)
    return self.adapter(z, self.output(self.intermediate(z), x))
