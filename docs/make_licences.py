"""List the licence of every pinned package: `make licences`."""

import re
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
HEAD = """\
# Licences

Of every package that `constraints.txt` pins, as its own metadata says; made by `make licences`.
Some serve tests, documentation or MLflow's server alone: `pyproject.toml` says which are needed
for what. vpetl_ray itself is Apache-2.0.

| package | version | licence |
|---|---|---|
"""


def licence_of(name: str) -> str:
    """Give what the package's metadata says: an expression, else its classifiers, else a line."""
    try:
        facts = metadata(name)
    except PackageNotFoundError:
        return "not installed here (another platform's)"
    named = [
        entry.rpartition(" :: ")[2]
        for entry in facts.get_all("Classifier") or ()
        if entry.startswith("License ::") and not entry.endswith("OSI Approved")
    ]
    text = facts.get("License-Expression") or ", ".join(named) or facts.get("License") or "not said"
    first = text.strip().splitlines()[0] if text.strip() else "not said"
    return re.sub(r"[|<>]", " ", first)[:80]


def main() -> None:
    """Print the page."""
    lines = [line for line in CONSTRAINTS.read_text().splitlines() if "==" in line]
    rows = [(*line.split("=="), licence_of(line.split("==")[0])) for line in lines]
    print(HEAD + "\n".join(f"| {name} | {version} | {text} |" for name, version, text in rows))


if __name__ == "__main__":
    main()
