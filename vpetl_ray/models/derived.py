"""Tensors that follow from a parameter and a size, computed once while the parameter is frozen."""

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

_KEPT = 4
"""Sizes that are kept (training and evaluation rarely use more than two)."""


class DerivedTensors:
    """The last few tensors that were made.

    Not buffers of a module: DDP would broadcast them and every state dict would carry them.
    """

    def __init__(self) -> None:
        self._tensors: dict[Hashable, Tensor] = {}

    def get(self, source: Tensor | None, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """Give what `make` makes, from memory if it can be there.

        Args:
            source: the parameter it is made from; nothing is kept unless that is frozen.
            key: what else it depends on.
            make: called without gradient where the result is kept.

        """
        if torch.compiler.is_compiling():
            return make()
        if source is not None and (source.requires_grad or source.is_inference()):
            # It may change without a trace: fused optimisers leave the version as it was.
            self._tensors.clear()
            return make()
        if source is not None:
            # The version and address tell when somebody loaded other weights into the parameter.
            key = (key, source._version, source.data_ptr())
        tensor = self._tensors.get(key)
        if tensor is None:
            while len(self._tensors) >= _KEPT:
                self._tensors.pop(next(iter(self._tensors)))
            # A tensor made in inference mode could not be used by a training step later.
            with torch.inference_mode(mode=False), torch.no_grad():
                tensor = self._tensors[key] = make()
        return tensor
