"""Further objectives of a config that are known by arithmetic, before anything is trained."""

from collections.abc import Mapping, Sequence

from vpetl_ray.models.arch import Arch
from vpetl_ray.models.arch_base import Size
from vpetl_ray.petl.adapter_bytes import count_adapter_bytes
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.flops import count_forward_flops
from vpetl_ray.training.model_facts import DataFacts, adapter_facts
from vpetl_ray.tuning.space import TrialConfig


class CostCounter:
    """Counts what is asked for.

    Args:
        names: of `results.objectives.COSTS`; those that are not counted are left out.
        arch: the backbone.
        classes: of the data; their names are in the adapter file.
        clip: frames, and pixels of height and width, that enter the network.
        seed: of the search, which is in the adapter file.
        facts: what else is in it.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        arch: Arch,
        classes: Sequence[str],
        clip: Size,
        seed: int,
        facts: DataFacts | None = None,
    ) -> None:
        self._arch = arch
        self._classes = list(classes)
        self._clip = clip
        self._seed = seed
        self._facts = facts
        counts = {"adapter_bytes": self._bytes, "forward_flops": self._flops}
        self._counts = {name: counts[name] for name in names if name in counts}

    @property
    def backbone_flops(self) -> int:
        """Of the frozen backbone with its classifier."""
        return count_forward_flops(PetlConfig(), self._arch, len(self._classes), self._clip)

    def __call__(self, trial_id: str, config: TrialConfig) -> Mapping[str, float]:
        """Count what this trial will cost."""
        return {name: count(trial_id, config) for name, count in self._counts.items()}

    def _bytes(self, trial_id: str, config: TrialConfig) -> int:
        facts = adapter_facts(
            self._facts,
            trial=trial_id,
            seed=self._seed,
            classes=self._classes,
            precision=config.recipe.precision,
        )
        return count_adapter_bytes(config.petl, self._arch, len(self._classes), facts)

    def _flops(self, trial_id: str, config: TrialConfig) -> int:
        return count_forward_flops(config.petl, self._arch, len(self._classes), self._clip)
