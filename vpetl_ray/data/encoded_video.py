"""pytorchvideo's reader of encoded videos, without what lies beside it.

`pytorchvideo.data` imports every data set that it knows, with them torchvision, and with that
torch's compiler: 1.3 s of CPU time in each decoder process, before its first video.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

_PACKAGE = "pytorchvideo.data"


def _import_reader() -> Any:
    """Import the reader's own module; its package stays to be imported by who asks for that."""
    found = importlib.util.find_spec("pytorchvideo")
    if _PACKAGE in sys.modules or found is None or not found.submodule_search_locations:
        return importlib.import_module(f"{_PACKAGE}.encoded_video_pyav")
    bare = ModuleType(_PACKAGE)
    bare.__path__ = [str(Path(folder) / "data") for folder in found.submodule_search_locations]
    sys.modules[_PACKAGE] = bare
    try:
        return importlib.import_module(f"{_PACKAGE}.encoded_video_pyav")
    finally:
        del sys.modules[_PACKAGE]


EncodedVideoPyAV: Any = _import_reader().EncodedVideoPyAV
"""pytorchvideo's `EncodedVideoPyAV`."""
