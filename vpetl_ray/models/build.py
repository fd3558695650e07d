"""From an architecture to the backbone that it describes."""

from collections.abc import Mapping

from vpetl_ray.models.arch import Arch, SwinArch
from vpetl_ray.models.backbone import Backbone
from vpetl_ray.models.video_swin import VideoSwin

BACKBONES: Mapping[type[Arch], type[Backbone]] = {SwinArch: VideoSwin}
"""Each family's numbers and network."""


def build_model(arch: Arch, num_classes: int, *, drop_path: float = 0.0) -> Backbone:
    """Build the backbone with a classifier of `num_classes`, at its initial weights."""
    return BACKBONES[type(arch)](arch, num_classes, drop_path=drop_path)
