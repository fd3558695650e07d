"""FLOPs of one clip's way through an adapted backbone, by arithmetic: see `models.work`."""

from vpetl_ray.models.arch import BlockSite
from vpetl_ray.models.arch_base import Size
from vpetl_ray.models.work import BlockWork, attention_flops, linear_flops
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.method import Arch, BlockMethod


def count_forward_flops(config: PetlConfig, arch: Arch, num_classes: int, clip: Size) -> int:
    """Count the FLOPs of classifying one clip with what `attach` would build, unmerged.

    Args:
        config: what is added; what is trained in place costs nothing here.
        arch: the backbone.
        num_classes: outputs of the classifier.
        clip: frames, and pixels of height and width, that enter the network.

    Raises:
        VpetlError: the config does not fit the architecture.

    """
    config.check(arch)
    added = [method for method in config.methods if isinstance(method, BlockMethod)]
    here = [(method, frozenset(method.sites(arch))) for method in added]
    total = arch.edge_flops(clip) + linear_flops(1, arch.num_features, num_classes)
    for site, work in zip(arch.blocks(), arch.block_works(clip), strict=True):
        total += _block_flops(site, work, [method for method, sites in here if site in sites])
    return total


def share_below(arch: Arch, depth: int, clip: Size) -> float:
    """Tell which share of a forward pass the first `depth` stages are, and all that is no block."""
    blocks = [
        (site.stage, _block_flops(site, work, []))
        for site, work in zip(arch.blocks(), arch.block_works(clip), strict=True)
    ]
    edges = arch.edge_flops(clip)
    below = sum(flops for stage, flops in blocks if stage <= depth) + edges
    return below / (sum(flops for _, flops in blocks) + edges) if depth else 0.0


def _block_flops(site: BlockSite, work: BlockWork, methods: list[BlockMethod]) -> int:
    num_keys = work.window_tokens + sum(method.further_tokens(work) for method in methods)
    qkv_rows = work.attended + sum(method.further_qkv_rows() for method in methods)
    return (
        linear_flops(work.attended, site.dim, 4 * site.dim)  # QKV and the output projection
        + attention_flops(work, site.dim, num_keys=num_keys)
        + linear_flops(work.tokens, site.dim, 2 * site.mlp_dim)
        + sum(method.block_flops(site, work, qkv_rows) for method in methods)
    )
