"""What the paper's tables say: top-1 on SSv2 and HMDB51 by row, and the orderings to look for.

Yu et al., Towards a Unified View on Visual Parameter-Efficient Transfer Learning. Rows of other
pre-training and of more frames have no counterpart on the demo.
"""

from dataclasses import dataclass

Accuracies = tuple[float | None, float | None]
"""Percent on SSv2 and on HMDB51."""

FULL, FC = "Full-tuning", "Tune FC Layer"
FILES = {
    "1": "table1_positions",
    "2": "table2_methods",
    "3": "table3_scale",
    "4": "table4_targets",
    "5": "table5_vit",
    "6": "table6_fc",
}
"""Name of each table's file in search_spaces/paper."""

PATT = "Swin-BAPAT (w/o Adapter)"
BAPAT = "Swin-BAPAT"
PAPER: dict[str, dict[str, Accuracies]] = {
    "1": {
        FULL: (50.99, None),
        FC: (24.13, None),
        "LayerNorm 1": (14.35, None),
        "Attn, Proj": (47.58, None),
        "Attn, QKV": (50.02, None),
        "Attn, SoftMax": (27.67, None),
        "LayerNorm 2": (14.62, None),
        "MLP, FC1": (47.10, None),
        "MLP, FC2": (45.32, None),
        "DownSample": (27.53, None),
    },
    "2": {
        FULL: (50.99, 68.07),
        FC: (24.13, 71.28),
        "BitFit": (45.94, 68.26),
        "AdaptFormer-Swin": (40.80, 68.66),
        "Prefix-tuning": (39.46, 56.13),
        f"{PATT} 32": (46.26, 69.51),
        f"{PATT} 64": (49.23, 71.34),
        f"{PATT} 128": (52.57, 70.56),
        f"{PATT} 256": (52.71, 70.23),
        f"{BAPAT} 32": (49.63, 68.20),
        f"{BAPAT} 64": (51.80, 70.10),
        f"{BAPAT} 128": (53.36, 71.93),
        f"{BAPAT} 256": (53.98, 69.64),
    },
    "3": {
        # The paper prints these two the wrong way round for HMDB51; Table 2 has them like this.
        FULL: (50.99, 68.07),
        FC: (24.13, 71.28),
        "AdaptFormer-Swin": (40.80, 68.66),
        "s = 0.2": (47.46, 69.38),
        "s = 0.5": (52.84, 71.87),
        "s = 0.8": (53.36, 71.93),
        "s = 1.0": (53.29, 70.89),
    },
    "4": {
        FULL: (50.99, 68.07),
        "Concat (K, V)": (15.61, 20.98),
        "No Z (K, V)": (51.06, 67.41),
        "Ours (Q, K)": (45.49, 68.92),
        "Ours (K, V)": (53.38, 71.41),
        "Ours (Q, V)": (53.24, 71.74),
        "Ours (Q, K, V)": (53.23, 69.57),
    },
    "5": {
        FULL: (53.97, 46.41),
        FC: (29.23, 49.84),
        "VPT": (43.73, 52.67),
        "AdaptFormer-64": (59.02, 55.69),
        "ViT-BAPAT-32": (57.78, 57.18),
        "ViT-BAPAT-64": (57.55, 57.18),
        "ViT-BAPAT-128": (56.97, 57.70),
        "ViT-BAPAT-256": (56.53, 57.31),
    },
    "6": {
        f"{BAPAT} {b} {fc} FC": (None, top1)
        for fc, column in (
            ("with", (65.97, 67.28, 66.75, 67.67)),
            ("without", (68.20, 70.10, 71.93, 69.64)),
        )
        for b, top1 in zip((32, 64, 128, 256), column, strict=True)
    },
}


@dataclass(frozen=True, kw_only=True)
class Ordering:
    """Two rows of a table, one above the other on SSv2."""

    table: str
    above: str
    below: str

    @property
    def paper(self) -> Accuracies:
        """By how many points, on SSv2 and on HMDB51."""
        above, below = PAPER[self.table][self.above], PAPER[self.table][self.below]
        first, second = (
            None if a is None or b is None else round(a - b, 2)
            for a, b in zip(above, below, strict=True)
        )
        return first, second


def _orderings(table: str, *pairs: tuple[str, str]) -> list[Ordering]:
    return [Ordering(table=table, above=above, below=below) for above, below in pairs]


ORDERINGS: list[Ordering] = [
    *_orderings(
        "2",
        (FULL, FC),
        (FULL, "BitFit"),
        ("BitFit", "AdaptFormer-Swin"),
        ("AdaptFormer-Swin", "Prefix-tuning"),
        ("AdaptFormer-Swin", FC),
        (f"{PATT} 128", "AdaptFormer-Swin"),
        (f"{PATT} 64", f"{PATT} 32"),
        (f"{PATT} 128", f"{PATT} 64"),
        (f"{PATT} 256", f"{PATT} 128"),
        (f"{BAPAT} 64", f"{BAPAT} 32"),
        (f"{BAPAT} 128", f"{BAPAT} 64"),
        (f"{BAPAT} 256", f"{BAPAT} 128"),
        (f"{BAPAT} 128", f"{PATT} 128"),
        (f"{PATT} 128", FULL),
        (f"{BAPAT} 128", FULL),
    ),
    *_orderings("3", ("s = 0.5", "s = 0.2"), ("s = 0.8", "s = 0.5"), ("s = 0.8", "s = 1.0")),
    *_orderings(
        "4",
        ("No Z (K, V)", "Concat (K, V)"),
        ("Ours (Q, K)", "Concat (K, V)"),
        ("Ours (K, V)", "No Z (K, V)"),
        ("Ours (K, V)", "Ours (Q, K)"),
        ("Ours (Q, V)", "Ours (Q, K)"),
        ("Ours (K, V)", "Ours (Q, V)"),
        ("Ours (K, V)", "Ours (Q, K, V)"),
    ),
]
