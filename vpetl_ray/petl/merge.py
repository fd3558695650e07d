"""Fold what was trained beside a frozen layer into the layer's weight: no cost is left."""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from vpetl_ray.errors import VpetlError
from vpetl_ray.petl.method import Branch


@runtime_checkable
class Mergeable(Protocol):
    """A branch that is a change of its layer's weight."""

    def delta_weight(self, layer: nn.Linear) -> Tensor:
        """(outputs, inputs), to be added to the weight."""


class Merged:
    """Branches that are folded into their layers, until `undo`.

    Args:
        branches: of one model; each that can be merged is taken out of its seam.

    Raises:
        VpetlError: none of them can be, or a layer is trained itself.

    """

    def __init__(self, branches: Iterable[Branch]) -> None:
        self._merged = [
            (branch, branch.layer, branch.layer.weight.detach().clone())
            for branch in branches
            if branch.layer is not None and isinstance(branch.module, Mergeable)
        ]
        self._seams = [(branch.seam, list(branch.seam)) for branch, _, _ in self._merged]
        if not self._merged:
            raise VpetlError("petl: nothing that is attached can be merged; only lora can")
        if any(layer.weight.requires_grad for _, layer, _ in self._merged):
            raise VpetlError("petl: cannot merge into a layer that is trained itself")
        with torch.no_grad():
            for branch, layer, _ in self._merged:
                assert isinstance(branch.module, Mergeable)
                layer.weight.add_(branch.module.delta_weight(layer))
                remove_branch(branch)

    def originals(self) -> dict[Tensor, Tensor]:
        """Give every weight that was changed, with what it was."""
        # Two methods may have changed one weight; the first copy is the original.
        return {layer.weight: old for _, layer, old in reversed(self._merged)}

    def undo(self) -> None:
        """Put weights back bit for bit, and branches where in their seams they were."""
        with torch.no_grad():
            for weight, old in self.originals().items():
                weight.copy_(old)
        for seam, modules in self._seams:
            _refill(seam, modules)


def remove_branch(branch: Branch) -> None:
    """Take one module out of its seam, and leave the others."""
    _refill(branch.seam, [module for module in branch.seam if module is not branch.module])


def _refill(seam: nn.ModuleList, modules: list[nn.Module]) -> None:
    del seam[:]
    seam.extend(modules)
