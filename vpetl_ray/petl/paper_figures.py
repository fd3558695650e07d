"""What a table of the paper consists of: figures that it prints, beside our exact counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vpetl_ray.models.arch import get_arch
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.count import count_trainable
from vpetl_ray.petl.methods import MethodConfig

SWIN_B: Final = "swin3d_b"
"""The paper's backbone but in Table 5."""
SSV2: Final = 174
"""Classes of Something-Something v2."""
HMDB51: Final = 51
"""Classes of HMDB51."""

ROUNDING: Final = "the paper's last digit: it added figures that were rounded already"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a config is counted for."""

    num_classes: int
    """Of the data set."""
    arch: str = SWIN_B
    """Name of the backbone's architecture."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number of a table."""

    config: PetlConfig
    """What is trained."""
    settings: tuple[Setting, ...]
    """Most often one; the figure is the mean over them."""
    millions: float
    """As printed, with two decimals."""
    reason: str = ""
    """Why ours differs, where it does."""

    @property
    def ours(self) -> int:
        """Exactly, by arithmetic; a mean is rounded to a whole parameter."""
        counts = [
            count_trainable(self.config, get_arch(setting.arch), setting.num_classes).total
            for setting in self.settings
        ]
        return round(sum(counts) / len(counts))

    @property
    def difference(self) -> float:
        """Ours less the paper's in millions, both with two decimals."""
        return round(round(self.ours / 1e6, 2) - self.millions, 2)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table."""

    label: str
    figures: Sequence[Figure | None]
    """One for each of the table's columns; None where the paper has none."""


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """One table of the paper."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Row]


def make_figure(
    methods: tuple[MethodConfig, ...],
    settings: Setting | tuple[Setting, ...],
    millions: float,
    *,
    train_classifier: bool = True,
    reason: str = "",
) -> Figure:
    """Put a figure together; where ours differs and no reason is given, it is rounding."""
    return Figure(
        config=PetlConfig(methods=methods, train_classifier=train_classifier),
        settings=settings if isinstance(settings, tuple) else (settings,),
        millions=millions,
        reason=reason or ROUNDING,
    )
