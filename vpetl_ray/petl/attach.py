"""Put a config into a frozen model, and take it out again without a trace."""

import logging
from collections.abc import Iterator, Mapping
from typing import Final

import torch
from torch import Tensor, nn

from vpetl_ray.errors import CheckpointError, VpetlError
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.merge import Merged, remove_branch
from vpetl_ray.petl.method import Arch, Backbone, Branch, Placement, Unfrozen
from vpetl_ray.petl.seeding import seeded

_logger = logging.getLogger(__name__)

HEAD: Final = "head"
"""The classifier's tensors are called `head.weight` and `head.bias`."""


def attach(model: Backbone, config: PetlConfig, *, seed: int) -> "Attached":
    """Freeze the model, build the config's branches into it, and give it a new classifier.

    A branch's start follows from (seed, method, block) and the classifier's from the seed alone:
    the same method starts the same, whatever else is on.

    Args:
        model: nothing may be attached to it yet; it is changed in place.
        config: what is trained.
        seed: of every initial value.

    Raises:
        VpetlError: the config does not fit, or trains nothing, or something is attached already.

    """
    config.check(model.arch)
    if not config.train_classifier and not any(
        method.stages_of(model.arch) for method in config.methods
    ):
        raise VpetlError(
            "petl: nothing is trained: no method is on and the classifier is not trained either"
        )
    if getattr(model, "_attached", None) is not None:
        raise VpetlError("petl: another config is attached to this model; detach it first")
    return Attached(model, config, seed=seed)


class Attached:
    """A config in a model. Made by `attach`.

    Attributes:
        model: the model it is in.
        config: what was asked for.
        trainable: exactly the parameters that are trained, by name.
        first_depth: the largest depth below which nothing is trained (see `forward_prefix`).
        warnings: sentences about parts of the config that match nothing in this model.

    """

    def __init__(self, model: Backbone, config: PetlConfig, *, seed: int) -> None:
        self.model = model
        self.config = config
        self._was_trainable = {p: p.requires_grad for p in model.parameters()}
        self._old_head = [p.detach().clone() for p in model.head.parameters()]
        placements = make_placements(config, model, seed)
        self._branches = [p for p in placements if isinstance(p, Branch)]
        self._unfrozen = [p for p in placements if isinstance(p, Unfrozen)]
        self._old_values = [p.parameter.detach().clone() for p in self._unfrozen]
        self.first_depth = min([p.stage - 1 for p in placements], default=model.arch.num_stages)
        self._merged: Merged | None = None
        self._insert(seed)
        self.trainable = dict(self._trainable(placements))
        self.warnings = tuple(_unmatched(config, model.arch))
        for warning in self.warnings:
            _logger.warning(warning)

    def _insert(self, seed: int) -> None:
        head = self.model.head
        for parameter in self._was_trainable:
            parameter.requires_grad = False
        for branch in self._branches:
            branch.module.to(device=head.weight.device, dtype=head.weight.dtype)
            branch.module.train(self.model.training)
            branch.seam.append(branch.module)
        for unfrozen in self._unfrozen:
            unfrozen.parameter.requires_grad = True
        _start_head(head, seed, is_trained=self.config.train_classifier)
        head.requires_grad_(self.config.train_classifier)
        self.model.__dict__["_attached"] = self  # not through setattr: it is no submodule

    def _trainable(self, placements: list[Placement]) -> Iterator[tuple[str, nn.Parameter]]:
        for placement in placements:
            yield from placement.parameters()
        if self.config.train_classifier:
            yield from self._head()

    def _head(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, parameter in self.model.head.named_parameters():
            yield f"{HEAD}.{name}", parameter

    def state_dict(self) -> dict[str, Tensor]:
        """Copy to the CPU the trainable tensors and of the classifier, trained or not."""
        tensors = {**self.trainable, **dict(self._head())}
        return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}

    def backbone_state(self) -> dict[str, Tensor]:
        """Give the backbone's own tensors as they were before `attach`, without the classifier."""
        trained = zip(self._unfrozen, self._old_values, strict=True)
        before: dict[Tensor, Tensor] = {unfrozen.parameter: old for unfrozen, old in trained}
        if self._merged is not None:
            before = {**self._merged.originals(), **before}
        head = set(self.model.head.parameters())
        return {
            name: before.get(parameter, parameter).detach()
            for name, parameter in self.model.named_parameters()
            if parameter in self._was_trainable and parameter not in head
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state_dict` gave; what was merged is merged anew.

        Raises:
            CheckpointError: a tensor is missing, unexpected, or of another shape.

        """
        tensors = {**self.trainable, **dict(self._head())}
        _check_state(tensors, state)
        was_merged = self._merged is not None
        self.unmerge()
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(state[name])
        if was_merged:
            self.merge()

    def merge(self) -> None:
        """Fold what can be into the frozen weights: the same output, at no cost.

        Training goes on only after `unmerge`. Safe to call twice.

        Raises:
            VpetlError: nothing that is attached can be merged.

        """
        if self._merged is None:
            self._merged = Merged(self._branches)

    def unmerge(self) -> None:
        """Take back `merge`: weights are bit for bit what they were. Safe to call twice."""
        if self._merged is not None:
            self._merged.undo()
            self._merged = None

    def detach(self) -> None:
        """Leave the model bit for bit as it was before `attach`. Safe to call twice."""
        if self.model.__dict__.get("_attached") is not self:
            return
        self.unmerge()
        for branch in self._branches:
            remove_branch(branch)
        olds = [
            *zip(self.model.head.parameters(), self._old_head, strict=True),
            *((u.parameter, old) for u, old in zip(self._unfrozen, self._old_values, strict=True)),
        ]
        with torch.no_grad():
            for parameter, old in olds:
                parameter.copy_(old)
        for parameter, was_trainable in self._was_trainable.items():
            parameter.grad = None
            parameter.requires_grad_(was_trainable)
        del self.model.__dict__["_attached"]


def make_placements(config: PetlConfig, model: Backbone, seed: int) -> list[Placement]:
    """Build everything; what two methods train in place is one tensor all the same."""
    placements: dict[str, Placement] = {}
    for method in config.methods:
        for placement in method.place(model, seed):
            placements.setdefault(placement.name, placement)
    return list(placements.values())


TRAINED_HEAD_SHARE = 0.1
"""How much narrower than an untrained classifier a trained one starts."""


def _start_head(head: nn.Linear, seed: int, *, is_trained: bool) -> None:
    """Draw normal weights; the bias is zero.

    An untrained classifier needs its classes told apart: its width 1 / sqrt(3 C) is torch's own for
    a linear layer, 0.018 for Swin-B, and wider for a narrow model, whose logits could else not get
    far apart. A trained one starts near zero (as MAE's probes and ConvNeXt's heads do), so that
    little luck is in the start: at full width the test accuracy of one config on the demo spread
    by 3.9 points over three seeds, from zero by 1.2, and was lower on average.
    """
    std = (3 * head.in_features) ** -0.5 * (TRAINED_HEAD_SHARE if is_trained else 1.0)
    start = torch.empty(head.weight.shape).normal_(0.0, std, generator=seeded(seed, HEAD))
    with torch.no_grad():
        head.weight.copy_(start)
        head.bias.zero_()


def _unmatched(config: PetlConfig, arch: Arch) -> Iterator[str]:
    for method in config.methods:
        if not method.stages_of(arch):
            yield f"{method.name}: matches nothing, so nothing of it is trained"


def _check_state(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    missing = sorted(tensors.keys() - state.keys())
    unexpected = sorted(state.keys() - tensors.keys())
    if missing or unexpected:
        raise CheckpointError(
            f"adapter weights: {len(missing)} missing {missing[:3]}, "
            f"{len(unexpected)} unexpected {unexpected[:3]}: they are of another config"
        )
    for name, tensor in tensors.items():
        if tensor.shape != state[name].shape:
            raise CheckpointError(
                f"adapter weights: {name} has shape {tuple(state[name].shape)}, "
                f"this config needs {tuple(tensor.shape)}"
            )
