"""What is said about a front as a whole: hypervolume, with its reference point, and knee."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vpetl_ray.results.front import knee_of, ppt, volume_of
from vpetl_ray.results.labels import count_label
from vpetl_ray.results.records import TrialRecord

UNIT = "percent x decades of parameters"


@dataclass(frozen=True, kw_only=True)
class FrontFacts:
    """Of one front, on the validation split."""

    hypervolume: float
    """See `front.front_hypervolume`."""
    max_params: int
    """The reference point's parameters: the backbone's, at 0% top-1, the same for every search on
    this backbone."""
    knee: str | None
    """Id of the member at the knee; None of an empty front."""
    knee_params: int | None
    best_ppt: float | None
    references: Mapping[str, float] = field(default_factory=dict)
    """Where the axes of further objectives end, by name."""

    @property
    def unit(self) -> str:
        """Of the hypervolume."""
        return UNIT + "".join(f" x decades of {name}" for name in self.references)

    @property
    def metrics(self) -> dict[str, float]:
        """As MLflow's parent run has them."""
        metrics: dict[str, float] = {"hypervolume": self.hypervolume}
        if self.knee_params is not None:
            metrics["knee_params"] = float(self.knee_params)
        if self.best_ppt is not None:
            metrics["best_ppt"] = self.best_ppt
        return metrics

    def to_dict(self) -> dict[str, Any]:
        """As `front.json` has them."""
        return {
            "knee": self.knee,
            "hypervolume": self.hypervolume,
            "hypervolume_reference": {
                "trainable_params": self.max_params,
                "top1": 0.0,
                **self.references,
                "unit": self.unit,
            },
        }

    def sentence(self) -> str:
        """Say the hypervolume and what it is measured from."""
        further = "".join(f", {end:.3g} {name}" for name, end in self.references.items())
        return (
            f"hypervolume {self.hypervolume:.1f} {self.unit} "
            f"(up to {count_label(self.max_params)} parameters{further}, down to 0%)"
        )


def front_facts(
    front: Sequence[TrialRecord],
    *,
    backbone_params: int,
    references: Mapping[str, float] | None = None,
) -> FrontFacts:
    """Measure a front.

    Args:
        front: from `front_of`, possibly empty.
        backbone_params: right edge of the hypervolume.
        references: further objectives, each with where its axis ends.
    """
    bend = knee_of(front)
    further = dict(references or {})
    return FrontFacts(
        hypervolume=volume_of(front, max_params=backbone_params, references=further),
        max_params=backbone_params,
        references=further,
        knee=bend.id if bend else None,
        knee_params=bend.trainable_params if bend else None,
        best_ppt=max((ppt(r.top1 or 0.0, r.trainable_params) for r in front), default=None),
    )
