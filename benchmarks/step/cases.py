"""What is measured: backbones, sizes of clips, batches; and what the peers are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import torch
from torch.nn.functional import cross_entropy

from benchmarks.step.measure import Step, largest_difference, make_step
from benchmarks.step.peers import make_pair, trainable_by_our_name
from vpetl_ray.models.arch import get_arch
from vpetl_ray.models.backbone import Backbone
from vpetl_ray.petl.attach import Attached
from vpetl_ray.spec.dry_run import multiplies_bf16
from vpetl_ray.training.network import wrap_network
from vpetl_ray.training.optimizer import make_optimizer
from vpetl_ray.training.recipe import Recipe

NUM_CLASSES: Final = 12
RATE: Final = 1e-5
"""Learning rate of every step: small, so that hundreds of them change little."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """Swin-BAPAT (adapter and PATT on K and V in every block) on one backbone at one size."""

    name: str
    arch: str
    size: tuple[int, int, int]
    """Frames, height, width."""
    batch: int
    adapter: int
    patt: int
    precision: str = "fp32"
    floor: float | None = None
    """Clips/s over those of the eager peer."""

    @property
    def peer(self) -> str:
        return "torchvision" if self.arch.startswith("swin") else "transformers"


_SWIN_T: Final = Case(
    name="swin_t",
    arch="swin3d_t",
    size=(8, 112, 112),
    batch=2,
    adapter=64,
    patt=128,
    floor=1.25,
)
CPU_CASES: Final = (
    Case(
        name="nano",
        arch="swin3d_nano",
        size=(8, 32, 32),
        batch=32,
        adapter=16,
        patt=16,
        floor=1.25,
    ),
    _SWIN_T,
    # 7 divides neither of the grids of its first two stages.
    replace(_SWIN_T, name="swin_t_padded", size=(8, 128, 128)),
    Case(
        name="vit_nano",
        arch="vit_nano_videomae",
        size=(8, 32, 32),
        batch=16,
        adapter=16,
        patt=16,
        floor=1.0,
    ),
)
GPU_CASES: Final = tuple(
    Case(
        name=f"swin_b_{frames}_frames",
        arch="swin3d_b",
        size=(frames, 224, 224),
        batch=batch,
        adapter=64,
        patt=128,
        precision="bf16",
        floor=2.0,
    )
    for frames, batch in ((8, 32), (16, 16))
)
REHEARSAL_CASES: Final = tuple(
    Case(
        name=case.name,
        arch="swin3d_nano",
        size=(case.size[0], 32, 32),
        batch=2,
        adapter=16,
        patt=16,
        precision="bf16",
    )
    for case in GPU_CASES
)
"""The GPU's cases at a tiny size, for a run on CPU that shows that the script works."""


@dataclass(frozen=True, kw_only=True)
class Contest:
    """One case on a device: a step of ours and of the peer, on equal weights."""

    case: Case
    attached: Attached
    peer: torch.nn.Module
    video: torch.Tensor
    labels: torch.Tensor
    steps: dict[str, Step]
    """By name: `ours`, `peer`, with a compiler `ours compiled` and `peer compiled`, and on a CPU
    that multiplies bf16 `ours bf16`."""

    @property
    def peer_trainable(self) -> dict[str, torch.nn.Parameter]:
        return trainable_by_our_name(self.peer, self.attached.model.arch)

    def largest_difference(self) -> float:
        """Of the two models' gradients for one clip, over the largest of each tensor.

        In float64: in float32 one hidden unit next to ReLU's kink is enough for 1e-3.
        """
        model = self.attached.model
        clip, label = self.video[:1].double(), self.labels[:1]
        peer_clip = clip if self.case.peer == "torchvision" else clip.transpose(1, 2)
        for network, x in ((model, clip), (self.peer, peer_clip)):
            out = network.double()(x)
            cross_entropy(getattr(out, "logits", out), label).backward()
        found = largest_difference(self.attached.trainable, self.peer_trainable)
        for network in (model, self.peer):
            network.float().zero_grad(set_to_none=True)
        return found


def make_contest(case: Case, device: torch.device, *, with_compiled: bool) -> Contest:
    """Build both models and their steps on the same clips."""
    torch.manual_seed(0)
    arch = get_arch(case.arch)
    peer, attached = make_pair(arch, case.size, case.adapter, case.patt, NUM_CLASSES)
    peer.to(device).train()
    attached.model.to(device).train()
    frames, height, width = case.size
    # Channels last in memory, as `clips_to_input` gives clips; the peers take it as it comes.
    video = torch.randn(case.batch, frames, height, width, 3, device=device).permute(0, 4, 1, 2, 3)
    labels = torch.randint(NUM_CLASSES, (case.batch,), device=device)
    recipe = Recipe(learning_rate=RATE, epochs=1, batch_size=case.batch, precision="fp32")
    optimizer = make_optimizer(attached, recipe, RATE)
    theirs = trainable_by_our_name(peer, arch)
    peer_optimizer = torch.optim.AdamW(theirs.values(), lr=RATE, weight_decay=0.0)
    peer_video = video if case.peer == "torchvision" else video.transpose(1, 2)
    network = wrap_network(attached.model, attached.first_depth, world_size=1)

    def ours(forward: torch.nn.Module) -> Step:
        return make_step(forward, optimizer, video, labels, case.precision)

    def peers(forward: torch.nn.Module) -> Step:
        return make_step(forward, peer_optimizer, peer_video, labels, case.precision)

    steps = {"ours": ours(network), "peer": peers(peer)}
    if device.type == "cpu" and case.precision == "fp32" and multiplies_bf16():
        steps["ours bf16"] = make_step(network, optimizer, video, labels, "bf16")
    if with_compiled:
        steps["ours compiled"] = _compiled(attached.model, steps["ours"])
        steps["peer compiled"] = peers(torch.compile(peer, dynamic=False))
    return Contest(case=case, attached=attached, peer=peer, video=video, labels=labels, steps=steps)


def _compiled(model: Backbone, eager: Step) -> Step:
    """Ours as `training.compile` runs it."""

    def step() -> torch.Tensor:
        model.set_running(is_compiled=True, is_recomputed=False)
        loss = eager()
        model.set_running(is_compiled=False, is_recomputed=False)
        return loss

    return step
