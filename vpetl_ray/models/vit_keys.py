"""From the key names in which ViT weights are published to those of `VisionTransformer`.

Known: MAE's and VideoMAE's own files, of pre-training and fine-tuned (and timm's plain ViT, whose
names MAE took over), and those of Hugging Face's transformers, old and new. Decoders, and whatever
else only pre-training needs, are left out.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

PUBLISHED, TRANSFORMERS = "MAE or VideoMAE", "transformers"

Rules = tuple[tuple[str, str], ...]

_LEFT_OUT = re.compile(r"(vit\.|videomae\.)?(decoder|mask_token|encoder_to_decoder|pooler)")
_OURS_FROM_PUBLISHED: Rules = (
    (r"^encoder\.", ""),  # VideoMAE's pre-training
    (r"\.attn\.(q_bias|v_bias)$", r".attn.qkv.\1"),
)
_OURS_FROM_TRANSFORMERS: Rules = (
    (r"^(vit|videomae)\.", ""),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(?:encoder\.layer|layers)\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.attention\.([qv])_bias$", r".attn.\1.bias"),
    (r"\.attention\.attention\.([qkv])[a-z]+\.", r".attn.\1."),
    (r"\.attention\.([qkv])_proj\.", r".attn.\1."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "head."),
)
_QKV_PART = re.compile(r"(blocks\.\d+\.attn\.)[qkv]\.(?:weight|bias)$")


def rename(tensors: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Tell whose names these are, and give the encoder's tensors ours."""
    plain = {key.removeprefix("module."): tensor for key, tensor in tensors.items()}
    kept = {key: tensor for key, tensor in plain.items() if not _LEFT_OUT.match(key)}
    if any("embeddings.patch_embeddings." in key for key in kept):
        return TRANSFORMERS, _with_fused_qkv(_renamed(kept, _OURS_FROM_TRANSFORMERS))
    return PUBLISHED, _renamed(kept, _OURS_FROM_PUBLISHED)


def _renamed(tensors: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    named = {}
    for key, tensor in tensors.items():
        new = key
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        named[new] = tensor
    return named


def _with_fused_qkv(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join the three projections of each block into one, as the original code has it."""
    out = {key: tensor for key, tensor in tensors.items() if not _QKV_PART.match(key)}
    for prefix in dict.fromkeys(found[1] for key in tensors if (found := _QKV_PART.match(key))):
        parts = {key[len(prefix) :]: tensors[key] for key in tensors if key.startswith(prefix)}
        weights = [parts.get(f"{part}.weight") for part in "qkv"]
        biases = [parts.get(f"{part}.bias") for part in "qkv"]
        _join(out, f"{prefix}qkv.weight", weights)
        if biases[1] is None:
            named = zip(("q_bias", "v_bias"), (biases[0], biases[2]), strict=True)
            out.update({f"{prefix}qkv.{name}": bias for name, bias in named if bias is not None})
        else:
            _join(out, f"{prefix}qkv.bias", biases)
    return out


def _join(out: dict[str, Tensor], key: str, parts: list[Tensor | None]) -> None:
    """Put the parts together if they are all there and alike; a missing key is told later."""
    there = [part for part in parts if part is not None and part.dim() > 0]
    if len(there) == len(parts) and len({part.shape for part in there}) == 1:
        out[key] = torch.cat(there)
