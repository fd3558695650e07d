"""Methods that add nothing: they train tensors which the backbone has already, in place."""

from abc import abstractmethod
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from vpetl_ray.models.own_tensors import OwnTensor
from vpetl_ray.petl.method import Arch, Backbone, Placement, StageMethod, Unfrozen
from vpetl_ray.petl.places import Places, own_tensors


@dataclass(frozen=True, kw_only=True)
class OwnMethod(StageMethod):
    """A method that trains tensors which the backbone has already, in place."""

    @abstractmethod
    def trains(self, tensor: OwnTensor) -> bool:
        """Whether it trains this tensor, where it is placed."""

    def own_tensors(self, arch: Arch) -> list[OwnTensor]:
        """Every tensor that is trained; where blocks are named, only tensors inside of them."""
        return [
            tensor
            for tensor in own_tensors(arch)
            if (self.stages is None or tensor.stage in self.stages)
            and (self.blocks is None or tensor.block in self.blocks)
            and self.trains(tensor)
        ]

    def places(self, arch: Arch) -> Places:
        """Tell where something is trained."""
        tensors = self.own_tensors(arch)
        return Places.of(
            (tensor.block for tensor in tensors if tensor.block is not None),
            (tensor.stage for tensor in tensors if tensor.block is None),
        )

    def count(self, arch: Arch, *, but: Collection[str] = ()) -> dict[str, int]:
        """Trainable parameters by stage, without the tensors that are named in `but`."""
        parts: dict[str, int] = {}
        for tensor in self.own_tensors(arch):
            if tensor.name not in but:
                key = f"{self.name}.stage{tensor.stage}"
                parts[key] = parts.get(key, 0) + tensor.size
        return parts

    def place(self, model: Backbone, seed: int) -> Iterator[Placement]:
        """Every tensor that is trained, in the model's order."""
        stages = {tensor.name: tensor.stage for tensor in self.own_tensors(model.arch)}
        for name, parameter in model.named_parameters():
            if name in stages:
                yield Unfrozen(name=f"backbone.{name}", stage=stages[name], parameter=parameter)
