"""The columns of a clip file; see `clip_file`."""

from __future__ import annotations

import pyarrow as pa

CLIP_SCHEMA = pa.schema(
    [
        pa.field("video", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("crc", pa.uint32(), nullable=False),
        pa.field("clip", pa.large_binary(), nullable=False),
    ]
)
