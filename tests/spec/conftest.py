from pathlib import Path

import pytest

from vpetl_ray.errors import SpecError
from vpetl_ray.spec.load import load_spec

MINIMAL = """\
name: small
petl:
  patt:
    targets: {subset: [q, k, v]}
    d_bottle: {choice: [2, 4]}
training: {learning_rate: 1e-2, epochs: 2, batch_size: 8}
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a file into the working directory, so that messages show its bare name."""
    monkeypatch.chdir(tmp_path)

    def write(text: str | bytes = MINIMAL, name: str = "x.yaml") -> Path:
        content = text.encode() if isinstance(text, str) else text
        Path(name).write_bytes(content)
        return Path(name)

    return write


@pytest.fixture
def mistakes(write):
    """The lines of the message that a text, with overrides, is refused with."""

    def mistakes(text: str | bytes, *overrides: str) -> list[str]:
        with pytest.raises(SpecError) as caught:
            load_spec(write(text), overrides)
        return str(caught.value).split("\n")

    return mistakes
