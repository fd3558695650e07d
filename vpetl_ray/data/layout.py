"""What is said about a data set whose files do not lie as they are published."""

from __future__ import annotations

from pathlib import Path

from vpetl_ray.errors import DataError

_PACKED = (".rar", ".zip", ".tar", ".tgz", ".tar.gz", ".7z")


def shown(name: str) -> str:
    """Write a file's name on one line: it may hold anything, a line break or a terminal's code."""
    return name if name.isprintable() else repr(name)


def need_folder(root: Path, expected: str) -> None:
    """Raise a DataError that shows the expected tree unless `root` is a folder.

    Args:
        root: what the user gave.
        expected: the tree, with {root} where the root goes.

    """
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"data.path: {root} {what}; {expected.format(root=root)}")


def wrong_layout(root: Path, problem: str, expected: str) -> DataError:
    """Make the error that shows the expected tree (with {root} in it) and the one found."""
    return DataError(
        f"data.path: {root}: {problem}{_packed(root)}; {expected.format(root=root)}"
        f"\nfound\n{tree(root)}"
    )


def tree(root: Path, limit: int = 8) -> str:
    """Show the first entries of a folder and of its first sub-folders in an error message."""
    lines: list[str] = []

    def describe(folder: Path, depth: int) -> None:
        entries = sorted(folder.iterdir())
        indent = "  " * depth
        for entry in entries[:limit]:
            lines.append(f"{indent}{shown(entry.name)}{'/' if entry.is_dir() else ''}")
            if entry.is_dir() and depth < 3 and len(lines) < 3 * limit:
                describe(entry, depth + 1)
        if len(entries) > limit:
            lines.append(f"{indent}... {len(entries) - limit} more")

    describe(root, 1)
    return "\n".join(lines) or "  (nothing)"


def _packed(root: Path) -> str:
    """Name the archives in the folder: what is missing is often still in one of them."""
    names = sorted(entry.name for entry in root.iterdir() if entry.name.endswith(_PACKED))
    if not names:
        return ""
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f" (to be unpacked first: {', '.join(names[:3])}{rest})"
