"""The clip store: every video of a data set decoded once, mapped into memory by all who train.

    <cache>/clips/<data set>-<fingerprint>/{train,val,test}.arrow, manifest.json

`clip_build` makes stores; this file reads them.
"""

from __future__ import annotations

from pathlib import Path

from vpetl_ray.data.clip_file import ClipFile
from vpetl_ray.data.config import ViewSpec
from vpetl_ray.data.data_set import Split
from vpetl_ray.data.manifest import Manifest, Skipped, read_manifest
from vpetl_ray.data.stored_clips import StoredClips


class ClipStore:
    """A whole clip store, open for reading. Cheap to open in every process of a machine.

    Attributes:
        path: its folder.
        manifest: what it holds and what went into it.

    Raises:
        DataError: it is not whole, damaged, or of another format; see `clip_file` for what is
            checked when.

    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest: Manifest = read_manifest(path)
        spec = self.manifest.clip_spec
        self._files = {
            split: ClipFile(path / f"{split}.arrow", frames=spec.stored_frames(split), seal=seal)
            for split, seal in self.manifest.files.items()
        }

    @classmethod
    def open(cls, path: str | Path) -> ClipStore:
        """Open the store in this folder."""
        return cls(Path(path))

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of their labels."""
        return self.manifest.classes

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """The videos that could not be read."""
        return self.manifest.skipped

    @property
    def num_bytes(self) -> int:
        """Size on the disk."""
        return sum(seal.num_bytes for seal in self.manifest.files.values())

    @property
    def num_clips(self) -> int:
        """Clips of all splits."""
        return sum(seal.num_clips for seal in self.manifest.files.values())

    def split(self, split: Split, view: ViewSpec, *, seed: int = 0) -> StoredClips:
        """Return one split as training reads it.

        Only train is ever augmented: for the others, the view's augmentation is dropped.

        Args:
            split: train, val or test.
            view: what the model sees of a clip.
            seed: of the augmentation; without augmentation it changes nothing.

        """
        if split != "train":
            view = view.without_augmentation()
        drawn = "" if view.is_fixed else f"/{view.train_crop}/flip{view.flip:g}/seed{seed}"
        return StoredClips(
            self._files[split],
            view,
            num_segments=self.manifest.clip_spec.segments(split),
            frames=self.manifest.clip_spec.frames,
            seed=seed,
            source_id=f"{self.manifest.fingerprint}/{split}/size{view.size}{drawn}",
            reopen=(_reopen_split, (str(self.path), split, view, seed)),
        )

    def verify(self) -> None:
        """Check the bytes of every clip; a DataError names the first file that is damaged."""
        for file in self._files.values():
            file.verify()


def _reopen_split(path: str, split: Split, view: ViewSpec, seed: int) -> StoredClips:
    return ClipStore.open(path).split(split, view, seed=seed)
