"""From an architecture to the backbone that it describes."""

from collections.abc import Callable, Mapping

from vpetl_ray.models.arch import Arch, SwinArch, ViTArch
from vpetl_ray.models.backbone import Backbone
from vpetl_ray.models.video_swin import VideoSwin
from vpetl_ray.models.vit import VisionTransformer

BACKBONES: Mapping[type[Arch], Callable[..., Backbone]] = {
    SwinArch: VideoSwin,
    ViTArch: VisionTransformer,
}
"""Each family's numbers and network."""


def build_model(arch: Arch, num_classes: int, *, drop_path: float = 0.0) -> Backbone:
    """Build the backbone with a classifier of `num_classes`, at its initial weights."""
    return BACKBONES[type(arch)](arch, num_classes, drop_path=drop_path)
