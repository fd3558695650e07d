"""Where the frozen part of a model ends: between two stages, or further on within one."""

from __future__ import annotations

from typing import Final

from vpetl_ray.models.backbone import NO_LEAD, Lead
from vpetl_ray.models.blocks import Block
from vpetl_ray.petl.attach import Attached

MIN_WEIGHTS: Final = 1_000_000
"""Of a block that is worth leaving out. With smaller ones (all of the demo's) a step gets a third
shorter, but every lead is a set of features of its own, to be computed first and to be kept."""


def find_lead(attached: Attached) -> Lead:
    """Tell how far into the first trained stage nothing is trained yet.

    Whole blocks before the first that is trained in or dropped at times (stochastic depth); and of
    a trained one all but the seam beside the MLP, where nothing else is trained in it. It counts
    from depth 1 on: the first stage's features would be larger than the clips.
    """
    model, depth = attached.model, attached.first_depth
    if not 0 < depth < model.arch.num_stages:
        return NO_LEAD
    blocks = model.stage_blocks(depth + 1)
    num_weights = sum(parameter.numel() for parameter in blocks[0].parameters())
    if num_weights < MIN_WEIGHTS:
        return NO_LEAD
    for number, block in enumerate(blocks):
        is_trained = any(parameter.requires_grad for parameter in block.parameters())
        if is_trained or block.drop_path_rate:
            return Lead(blocks=number, has_start=_is_beside_mlp_alone(block))
    return NO_LEAD  # it is what leads to the next stage that is trained


def _is_beside_mlp_alone(block: Block) -> bool:
    beside = set(block.mlp_branches.parameters())
    trained = {parameter for parameter in block.parameters() if parameter.requires_grad}
    return trained <= beside and block.drop_path_rate == 0
