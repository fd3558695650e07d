"""What decoding gives, apart from the decoder: reading a clip store must not import pytorchvideo.

(That import takes seconds, and every worker of a search would pay for it.)
"""

from __future__ import annotations

import importlib.metadata

import numpy as np
from numpy.typing import NDArray

Clip = NDArray[np.uint8]
"""RGB of shape (T, H, W, 3)."""

DECODER = (
    f"pytorchvideo {importlib.metadata.version('pytorchvideo')}, "
    f"av {importlib.metadata.version('av')}, rules 2"
)
"""Named in every clip store: another decoder, or other rules in decode.py, make another store."""


class UnreadableVideoError(Exception):
    """A file that gives no clip; the message is the reason that the user reads."""
