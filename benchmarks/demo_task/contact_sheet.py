"""Draw the picture of the demo's classes for docs/demo.md: one clip a class, its frames in a row.

python -m benchmarks.demo_task.contact_sheet
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np

from vpetl_ray.data.demo_clips import class_name, draw_clip
from vpetl_ray.data.demo_motion import TARGET_MOTIONS

mpl.use("Agg")
from matplotlib import pyplot as plt

OUT = Path(__file__).parents[2] / "docs" / "demo_classes.png"


def main() -> None:
    columns = 2
    rows = len(TARGET_MOTIONS) // columns
    figure, axes = plt.subplots(rows, columns, figsize=(9, 3.9), layout="constrained")
    for index, axis in enumerate(axes.T.flat):
        frames_THWC = draw_clip("target", "train", index, seed=0)
        padded = np.pad(
            frames_THWC, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="constant", constant_values=255
        )
        axis.imshow(np.concatenate(list(padded), axis=1), interpolation="nearest")
        axis.set_title(class_name("target", index), fontsize=8, loc="left", pad=2)
        axis.axis("off")
    figure.savefig(OUT, dpi=110)
    print(f"{OUT.name}: {OUT.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
