"""What the paper reports for its own setting, to stand beside a search of the same.

Yu et al., Towards a Unified View on Visual Parameter-Efficient Transfer Learning, Table 2: Video
Swin-B, pretrained on Kinetics-400, 8 frames. Parameters as printed there, in millions.
"""

from __future__ import annotations

from dataclasses import dataclass

BACKBONE = "swin3d_b"
_TABLE_2: tuple[tuple[str, tuple[float, float], tuple[float, float]], ...] = (
    ("full tuning", (87.82, 50.99), (87.69, 68.07)),
    ("linear probe", (0.18, 24.13), (0.05, 71.28)),
    ("BitFit", (1.29, 45.94), (1.11, 68.26)),
    ("adapter 64", (1.73, 40.80), (1.61, 68.66)),
    ("prefix 128", (6.57, 39.46), (6.40, 56.13)),
    ("PATT 32", (1.35, 46.26), (1.17, 69.51)),
    ("PATT 64", (2.51, 49.23), (2.34, 71.34)),
    ("PATT 128", (4.83, 52.57), (4.65, 70.56)),
    ("PATT 256", (9.45, 52.71), (9.27, 70.23)),
    ("Swin-BAPAT 32", (2.91, 49.63), (2.74, 68.20)),
    ("Swin-BAPAT 64", (4.07, 51.80), (3.89, 70.10)),
    ("Swin-BAPAT 128", (6.38, 53.36), (6.20, 71.93)),
    ("Swin-BAPAT 256", (11.00, 53.98), (10.83, 69.64)),
)
_COLUMN = {"ssv2": 1, "hmdb51": 2}


@dataclass(frozen=True, kw_only=True)
class PaperPoint:
    """A row of the paper's table."""

    label: str
    params: float
    top1: float
    """Percent."""


def paper_points(backbone: str, data: str) -> tuple[PaperPoint, ...]:
    """Give the paper's figures for this backbone and data set; none where it has none."""
    column = _COLUMN.get(data)
    if backbone != BACKBONE or column is None:
        return ()
    points = []
    for label, *figures in _TABLE_2:
        millions, top1 = figures[column - 1]
        points.append(PaperPoint(label=label, params=1e6 * millions, top1=top1))
    return tuple(points)
