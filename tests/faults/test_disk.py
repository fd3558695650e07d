"""A disk that is full, or can only be read: a clear stop, nothing half-written, and --resume."""

import re
import subprocess
import time

import pytest

from tests.faults.searches import finished, trials_of, wait_until
from tests.faults.test_driver import count_faults

pytestmark = [pytest.mark.timeout(400), pytest.mark.faults]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own, of 48 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "none", place], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("a disk of its own takes root")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def fill(disk):
    """Leave no room at all."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        size = 2**20
        while size >= 512:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2
    return filler


def test_a_disk_that_is_full_stops_the_search_and_resume_goes_on(start, small_disk, record_fault):
    out = small_disk / "out"
    words = ("--out", out, "--trials", 8, "--set", "training.epochs=60")
    search = start(*words)
    search.wait_for(r"t0001 complete")
    wait_until(lambda: len(trials_of(out)) > 1, 60)
    filler = fill(small_disk)
    code = search.wait()
    known = set(re.findall(r"\] (t\d+) complete", search.said))
    assert code == 1, search.said
    assert "Traceback" not in search.said, search.said
    last = [line for line in search.said.splitlines() if line.strip()][-2:]
    assert "full" in last[0] or "No space left" in last[0], search.said
    assert last[1].startswith("go on with: python -m vpetl_ray.search faulty.yaml --out")
    assert not list(out.rglob("*.tmp*"))
    search.wait_until_gone(60)
    readable = set(finished(out))  # the table of before, whole
    assert readable <= known

    filler.unlink()
    began = time.monotonic()
    again = start(*words, "--resume")
    assert again.wait() == 0, again.said
    lost, doubled, is_told = count_faults(out, known)
    record_fault("disk full, then --resume", lost=lost, doubled=doubled,
                 seconds=[time.monotonic() - began])  # fmt: skip
    assert (lost, doubled, is_told) == (0, 0, True), again.said
    assert len(finished(out)) == 8


def test_a_results_folder_that_can_only_be_read_is_refused(start, small_disk, record_fault):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    search = start("--out", small_disk / "out")
    code = search.wait()
    record_fault("results folder read-only", lost=0)
    assert code == 2, search.said
    assert search.said.strip() == f"--out: no permission to write in {small_disk}"
