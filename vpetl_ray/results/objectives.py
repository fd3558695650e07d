"""What a search can be asked to trade off: accuracy, trainable parameters, and further costs.

Accuracy and trainable parameters are objectives of every search. The others are costs, less is
better, that a spec adds by name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

ALWAYS = ("top1", "trainable_params")
"""Objectives of every search, and its only ones if none is added."""
TRAIN_SECONDS = "train_seconds"
"""The one that grows while a trial is trained."""


class Known(StrEnum):
    """When a cost is known."""

    COUNTED = "counted"
    """Before anything runs, by arithmetic."""
    MEASURED = "measured"
    """Once the config is in a worker, on its device."""
    TRAINED = "trained"
    """It grows while the config is trained."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """An objective of which less is better, beside trainable parameters."""

    name: str
    """In specs, tables, files and MLflow."""
    header: str
    """In the terminal's table."""
    meaning: str
    """One sentence."""
    known: Known
    is_count: bool = False
    """A whole number, shortened where it is shown: 1.2M."""
    reference: float | None = None
    """Where the hypervolume ends on this axis; None: it follows from the backbone."""


COSTS: Mapping[str, Cost] = MappingProxyType(
    {
        cost.name: cost
        for cost in (
            Cost(
                name="adapter_bytes",
                header="bytes",
                meaning="size of the adapter file, which holds what is trained and the classifier",
                known=Known.COUNTED,
                is_count=True,
            ),
            Cost(
                name="forward_flops",
                header="FLOPs",
                meaning="of one clip's forward pass: matrix products and convolutions, a "
                "multiply-add being two, nothing merged",
                known=Known.COUNTED,
                is_count=True,
            ),
            Cost(
                name="latency_ms",
                header="ms",
                meaning="median time of one clip's forward pass on a worker's device, in the "
                "training's precision, after warm-up, nothing merged",
                known=Known.MEASURED,
                reference=6e4,
            ),
            Cost(
                name="peak_memory_mb",
                header="MB",
                meaning="peak memory of a training step on a worker's device in 10^6 bytes: "
                "parameters, optimiser state, and what the step allocates",
                known=Known.MEASURED,
                reference=1e6,
            ),
            Cost(
                name=TRAIN_SECONDS,
                header="train s",
                meaning="time of training and validation, also of the features of the frozen part "
                "for the trial that computed them first",
                known=Known.TRAINED,
                reference=1e6,
            ),
        )
    }
)
OBJECTIVES = (*ALWAYS, *COSTS)
"""Every name that a spec may give, in the order in which they are written."""
LOWEST = 1e-6
"""On a logarithmic axis nothing costs less."""


def costs_of(objectives: Sequence[str], known: Known | None = None) -> tuple[str, ...]:
    """Those of the objectives that a spec has added, all or what is known at one time."""
    return tuple(
        name for name in objectives if name in COSTS and known in (None, COSTS[name].known)
    )


def references(
    names: Sequence[str], *, backbone_params: int, backbone_flops: int
) -> dict[str, float]:
    """Where the hypervolume ends on the axis of each cost: the same for all searches alike.

    Args:
        names: of costs.
        backbone_params: whose size in float32 ends the axis of bytes.
        backbone_flops: of the frozen backbone with its classifier; ten times that is the end.
    """
    by_backbone = {"adapter_bytes": 4.0 * backbone_params, "forward_flops": 10.0 * backbone_flops}
    found = {name: COSTS[name].reference for name in names}
    return {
        name: by_backbone[name] if reference is None else reference
        for name, reference in found.items()
    }
