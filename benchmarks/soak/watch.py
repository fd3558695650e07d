"""The processes of a search at one moment after another, seen from a process of its own.

    python -m benchmarks.soak.watch PID STUDY OUT

Within the search it would take the interpreter's lock from what it measures: a fifth of the time.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import psutil

SECONDS_BETWEEN = 2.0


def num_ended(study: Path) -> int:
    """Trials of a study that have ended."""
    if not study.exists():
        return 0
    query = "SELECT COUNT(*) FROM trials WHERE state IN ('COMPLETE', 'FAIL', 'PRUNED')"
    with closing(sqlite3.connect(f"file:{study}?mode=ro", uri=True, timeout=30.0)) as database:
        try:
            return int(database.execute(query).fetchone()[0])
        except sqlite3.OperationalError:
            return 0  # its tables are being made


def look(driver: psutil.Process) -> dict[str, float]:
    """MB, open files, CPU seconds and number of the processes of each kind."""
    values: Counter[str] = Counter()
    own = psutil.Process().pid
    for process in (driver, *driver.children(recursive=True)):
        if process.pid == own:
            continue
        try:
            kind = _kind(process, driver)
            memory = process.memory_full_info().uss / 1e6
            files = process.num_fds()
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        values[f"{kind}, MB"] += memory
        values[f"{kind}, open files"] += files
        values[f"{kind}, CPU s"] += times.user + times.system
        values[f"{kind}, processes"] += 1
    return dict(values)


def _kind(process: psutil.Process, driver: psutil.Process) -> str:
    if process.pid == driver.pid:
        return "driver"
    title = " ".join(process.cmdline()[:1]) or process.name()
    if "RayTrainWorker" in title:
        return "groups"
    if "DispatcherActor" in title:
        return "dispatcher"
    return "idle workers" if "IDLE" in title else "others"


def main() -> None:
    pid, study, out = sys.argv[1:]
    driver = psutil.Process(int(pid))
    with Path(out).open("w") as file:
        while driver.is_running():
            time.sleep(SECONDS_BETWEEN)
            if ended := num_ended(Path(study)):
                file.write(json.dumps({"trials": ended, "values": look(driver)}) + "\n")
                file.flush()


if __name__ == "__main__":
    main()
