"""What MLflow is told about a search, or a config trained by itself, as a whole."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Literal

from vpetl_ray.results.records import Scalar

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
"""How a search ended: by itself, by an error, by its user."""

Kind = Literal["search", "finetune"]
"""search: many trials, of which some are the front. finetune: one config, a record for a seed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackingInfo:
    """What MLflow is told about a search as a whole."""

    search_id: str
    """Names the search for good: the same id goes on with the same runs, a new id starts new."""
    name: str
    uri: str
    artifact_location: str | None = None
    """Used when the experiment is made; None leaves it to the server."""
    experiment: str
    spec_text: str
    """The resolved YAML; credentials of the URI are taken out of it."""
    settings: Mapping[str, Scalar | None] = dataclasses.field(default_factory=dict)
    """What is fixed: backbone, budget, sampler, seed, size of the space. Params of the parent."""
    columns: Sequence[str] = ()
    """Paths of the config that the UI's tables show."""
    costs: Sequence[str] = ()
    """Objectives beside top-1 and trainable parameters, which they show as well."""
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """As from `environment_facts`."""
    description: str = ""
    """Markdown, until the first summary replaces it."""
    kind: Kind = "search"
    only: str | None = None
    """Id of the one record that there will be: it gets no run below the first, it is that run."""
    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """More tags of the first run, and of the runs below it."""
    infeasible_runs: bool = False
    """Make runs for infeasible trials too. They were never trained and may be many: by default
    they are counted on the parent, and ``trials.parquet`` has them."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+", self.search_id):
            raise ValueError(
                f"search_id: letters, digits, '_', '.' and '-' only, got {self.search_id!r}"
            )
