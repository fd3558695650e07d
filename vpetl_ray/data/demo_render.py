"""From a digit's path to pictures: the scan resampled at each pose, and inked on a background.

Axis letters: T frames of a clip (8), H and W height and width in pixels (32 each), C colours (3).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vpetl_ray.data.demo_motion import SIDE, Array, Path


def render_coverage(scan_88: Array, path: Path) -> Array:
    """How much of each pixel the moving digit covers, by bilinear sampling of its scan.

    Args:
        scan_88: an 8 x 8 scan with values in 0..1.
        path: the digit's pose in each frame.

    Returns:
        Coverage in 0..1, of shape (8, 32, 32): frames, rows, columns.
    """
    grid = np.arange(SIDE, dtype=np.float64)
    half = SIDE / 2
    dx_TW = (grid - path.centres[:, :1] + half) % SIDE - half
    dy_TH = (grid - path.centres[:, 1:] + half) % SIDE - half
    pixels_T = path.sizes / scan_88.shape[0]
    cos_T11 = (np.cos(path.angles) / pixels_T)[:, None, None]
    sin_T11 = (np.sin(path.angles) / pixels_T)[:, None, None]
    middle = (scan_88.shape[0] + 1) / 2  # of the scan with its border of one pixel of paper
    u_THW = cos_T11 * dx_TW[:, None, :] + sin_T11 * dy_TH[:, :, None] + middle
    v_THW = cos_T11 * dy_TH[:, :, None] - sin_T11 * dx_TW[:, None, :] + middle
    paper = np.pad(scan_88, 1)
    last = paper.shape[0] - 1
    u_THW = np.clip(u_THW, 0, last - 1e-6)
    v_THW = np.clip(v_THW, 0, last - 1e-6)
    column, row = u_THW.astype(np.intp), v_THW.astype(np.intp)
    right_share, low_share = u_THW - column, v_THW - row
    upper = paper[row, column] * (1 - right_share) + paper[row, column + 1] * right_share
    lower = paper[row + 1, column] * (1 - right_share) + paper[row + 1, column + 1] * right_share
    inked_THW = upper * (1 - low_share) + lower * low_share
    coverage_THW: Array = inked_THW * path.opacities[:, None, None]
    return coverage_THW


def paint(coverage_THW: Array, background_HWC: Array, ink_C: Array) -> NDArray[np.uint8]:
    """Ink laid over a still background.

    Args:
        coverage_THW: 0..1 per pixel.
        background_HWC: colours in 0..255.
        ink_C: the digit's colour in 0..255.

    Returns:
        Frames as uint8 of shape (T, H, W, C).
    """
    share_THW1 = coverage_THW[..., None]
    frames_THWC = background_HWC * (1 - share_THW1) + ink_C * share_THW1
    return np.clip(np.rint(frames_THWC), 0, 255).astype(np.uint8)
