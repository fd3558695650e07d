"""What differs between families in the way their weights are published, named and recognised."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

from vpetl_ray.models.arch_base import Arch

OURS = "vpetl_ray"
"""The format of what `save_backbone` writes."""

HEAD = ("head.weight", "head.bias")
"""The classifier, in our names."""

A = TypeVar("A", bound=Arch)


@dataclass(frozen=True, kw_only=True)
class Network(ABC):
    """What the shapes of a set of weights tell about the network they belong to."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The known architectures that fit; several when they differ in what no shape tells."""

    @property
    @abstractmethod
    def widths(self) -> tuple[object, ...]:
        """What every single block shows, so that it holds even if some are missing."""

    @property
    @abstractmethod
    def numbers(self) -> str:
        """The numbers, for a message."""

    def __str__(self) -> str:
        return f"{self.names[0] if self.names else 'an unknown network'} ({self.numbers})"


class WeightFamily(ABC, Generic[A]):
    """The weights of one family. "Canonical" tensors carry the names of our network."""

    name: str
    """What messages call it."""

    @abstractmethod
    def canonical(
        self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
    ) -> tuple[str, dict[str, Tensor]]:
        """Tell the format and give the tensors our names, without what our network has not."""

    @abstractmethod
    def network_of_arch(self, arch: A) -> Network:
        """Give what weights of `arch` show."""

    @abstractmethod
    def network_of_weights(self, tensors: Mapping[str, Tensor]) -> Network | None:
        """Recognise the network that canonical `tensors` belong to; None if they are no such."""

    @abstractmethod
    def known_arch(self, tensors: Mapping[str, Tensor]) -> A | None:
        """Tell which known architecture canonical `tensors` are."""

    @abstractmethod
    def fit(
        self, found: str, tensors: Mapping[str, Tensor], arch: A
    ) -> tuple[dict[str, Tensor], list[str]]:
        """Give tensors of format `found` the sizes of `arch`, and notes on what was changed.

        Raises:
            CheckpointError: they cannot be; the message says why, without the file.

        """
