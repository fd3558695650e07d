"""How a trial is trained: optimiser, learning rate over time, batch, precision."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import cos, pi
from typing import Any, Literal, Self

from vpetl_ray.errors import VpetlError
from vpetl_ray.petl.checks import (
    check_choice,
    check_flag,
    check_number,
    check_whole_number,
    describe_unknown,
)

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("one_cycle", "cosine", "constant")
PRECISIONS = ("fp32", "bf16")

_ONE_CYCLE_START = 1 / 25
_ONE_CYCLE_RISE = 0.3


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything about training that is not the model, the data or the seed."""

    learning_rate: float
    """Peak learning rate."""
    epochs: int
    """Passes over the training clips."""
    batch_size: int
    """Clips a step, over all workers together."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """adamw or sgd."""
    weight_decay: float = 0.0
    """Decay of matrices; biases, norms and scales never decay."""
    momentum: float = 0.9
    """Of sgd."""
    schedule: Literal["one_cycle", "cosine", "constant"] = "one_cycle"
    """Learning rate over time; every schedule steps after every batch."""
    warmup_epochs: float = 0.0
    """Linear rise at the start; one_cycle rises over this long instead of its own 30%."""
    label_smoothing: float = 0.0
    """Probability given to the wrong classes together."""
    drop_path: float = 0.0
    """Stochastic depth at the last block, above the frozen part only."""
    grad_clip: float | None = None
    """Largest norm of the gradient; by default it is left alone."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs under autocast; what is trained stays in fp32."""
    compile: bool = False
    """Whether blocks are compiled: faster steps, after minutes of compiling a kind of config."""
    recompute: bool = False
    """Whether blocks run anew in the backward pass: less memory, slower steps."""
    eval_batch_size: int = 64
    """Clips a step when nothing is trained, a worker."""
    probe_epochs: int = 100
    """Epochs when the classifier alone is trained: on features computed once they cost nothing."""
    probe_learning_rate: float = 3e-2
    """Learning rate when the classifier alone is trained."""

    def __post_init__(self) -> None:
        check_choice("training.optimizer", self.optimizer, OPTIMIZERS)
        check_choice("training.schedule", self.schedule, SCHEDULES)
        check_choice("training.precision", self.precision, PRECISIONS)
        for name in ("epochs", "batch_size", "eval_batch_size", "probe_epochs"):
            check_whole_number(f"training.{name}", getattr(self, name), at_least=1)
        for name in ("learning_rate", "probe_learning_rate"):
            check_number(f"training.{name}", getattr(self, name), above=0)
        for name in ("weight_decay", "warmup_epochs"):
            check_number(f"training.{name}", getattr(self, name), at_least=0)
        for name in ("momentum", "label_smoothing", "drop_path"):
            check_number(f"training.{name}", getattr(self, name), at_least=0, below=1)
        for name in ("compile", "recompute"):
            check_flag(f"training.{name}", getattr(self, name))
        if self.grad_clip is not None:
            check_number("training.grad_clip", self.grad_clip, above=0)
        if self.warmup_epochs >= self.epochs and self.warmup_epochs > 0:
            raise VpetlError(
                f"training.warmup_epochs: must be below epochs ({self.epochs}), "
                f"got {self.warmup_epochs:g}"
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, and all that `from_dict` needs."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            VpetlError: an unknown key, a missing or a bad value.

        """
        names = [f.name for f in fields(cls)]
        for key in values:
            if key not in names:
                raise VpetlError(f"training: unknown key {describe_unknown(key, names)}")
        for key in ("learning_rate", "epochs", "batch_size"):
            if key not in values:
                raise VpetlError(f"training.{key}: must be given")
        return cls(**values)


def learning_rate_factor(
    schedule: str, step: int, *, total_steps: int, warmup_steps: float
) -> float:
    """Share of the peak learning rate at one step.

    Args:
        schedule: one of `SCHEDULES`.
        step: from 0 to total_steps - 1.
        total_steps: of the whole training.
        warmup_steps: 0 for none; may be a fraction.

    """
    if schedule == "one_cycle":
        rise = warmup_steps or _ONE_CYCLE_RISE * total_steps
        if step < rise:
            return _ONE_CYCLE_START + (1 - _ONE_CYCLE_START) * _cosine_up(step / rise)
        return 1 - _cosine_up(_share(step, rise, total_steps))
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "cosine":
        return 1 - _cosine_up(_share(step, warmup_steps, total_steps))
    return 1.0


def _share(step: float, start: float, stop: float) -> float:
    """How far `step` is on the way; `stop` itself, where the rate is 0, is never a step."""
    return (step - start) / max(stop - start, 1.0)


def _cosine_up(share: float) -> float:
    """0 at 0, 1 at 1, along half a cosine."""
    return (1 - cos(pi * share)) / 2
