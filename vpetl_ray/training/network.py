"""The part of the model that changes, alone or shared by the workers of a group."""

import os
import shutil

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vpetl_ray.errors import VpetlError
from vpetl_ray.models.backbone import NO_LEAD, Lead
from vpetl_ray.petl.method import Backbone


class Suffix(nn.Module):
    """From what enters stage `depth` + 1 to logits, as the module that DDP wants."""

    def __init__(self, model: Backbone, depth: int, lead: Lead) -> None:
        super().__init__()
        self.model = model
        self.depth = depth
        self.lead = lead

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) as `forward_prefix` gives it to logits (B, K)."""
        return self.model.forward_suffix(x, self.depth, self.lead)


def wrap_network(
    model: Backbone, depth: int, world_size: int, *, lead: Lead = NO_LEAD
) -> nn.Module:
    """Average gradients over the workers where there are several.

    Every rank has attached with the same seed to the same weights, so nothing is sent around at
    the start: wrapping takes milliseconds, however large the frozen part is.
    """
    network = Suffix(model, depth, lead)
    if world_size == 1:
        return network
    # The backbones have no buffers, so `broadcast_buffers` (deprecated) can be left alone.
    return DistributedDataParallel(network, init_sync=False, gradient_as_bucket_view=True)


def check_compiler(device: torch.device) -> None:
    """Raise a VpetlError where `torch.compile` would find no C++ compiler."""
    names = ("c++", "g++", "clang++")
    if device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", ""), *names))):
        raise VpetlError(
            "training.compile: needs a C++ compiler on the CPU and found none of "
            f"{', '.join(names)}; install one, name it in CXX, or set training.compile to false"
        )
