"""Where the workers of a group are put, and what they talk through. Needs no Ray to be imported."""

from typing import Literal, TypeAlias, get_args

Placement: TypeAlias = Literal["pack", "spread", "strict_pack", "strict_spread"]
"""Ray's placement strategies: a group's workers on few nodes, or on many; strict: or not at all."""
PLACEMENTS: tuple[str, ...] = get_args(Placement)

Backend: TypeAlias = Literal["auto", "nccl", "gloo"]
BACKENDS: tuple[str, ...] = get_args(Backend)
