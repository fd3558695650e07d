"""Where the searches on one cluster say what they want and have: a table in Ray's own store.

Each driver writes its line every few seconds and reads those of the others. A line counts no more
once Ray says that its driver is gone, which it knows at once of a process that was killed, or once
it no longer changes: a driver may hang, or its machine be cut off. Clocks of different machines are
never compared, except to say who of two began first.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any

import ray
from ray._private import state
from ray.experimental import internal_kv as store

from vpetl_ray.tuning.fair_shares import Claim

_PREFIX = b"vpetl_ray/claims/"
GONE_SECONDS = 30.0
"""Of silence after which a search is taken for ended."""


class ClaimsBoard:
    """The table, as one driver sees it; its connection to Ray is open as long as it is used.

    Args:
        clock: seconds that never go back; injected by tests.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._beats = itertools.count()
        self._seen: dict[bytes, tuple[bytes, float]] = {}
        self._own: bytes | None = None

    def write(self, claim: Claim) -> None:
        """Write or renew the own line."""
        self._own = _PREFIX + claim.search.encode()
        job = ray.get_runtime_context().get_job_id()
        line = {"beat": next(self._beats), "job": job, **asdict(claim)}
        store._internal_kv_put(self._own, json.dumps(line).encode(), overwrite=True)

    def others(self) -> list[Claim]:
        """Read what the others have written, of those that still do."""
        now, found = self._clock(), []
        keys = [key for key in store._internal_kv_list(_PREFIX) if key != self._own]
        ended = _ended_jobs() if keys else set()
        for key in keys:
            line = store._internal_kv_get(key)
            if line is None:
                continue
            before, since = self._seen.get(key, (b"", now))
            since = now if line != before else since
            self._seen[key] = (line, since)
            written = _read(line)
            if now - since > GONE_SECONDS or written.get("job") in ended:
                store._internal_kv_del(key)
                continue
            found.append(_claim(written))
        return [claim for claim in found if claim is not None]

    def withdraw(self) -> None:
        """Take the own line away: the groups are for the others now."""
        if self._own is not None:
            store._internal_kv_del(self._own)
            self._own = None


def _ended_jobs() -> set[str]:
    """Ids of the drivers that Ray knows to be gone."""
    jobs = state.jobs()  # type: ignore[no-untyped-call]
    return {job["JobID"] for job in jobs if job["IsDead"]}


def _read(line: bytes) -> dict[str, Any]:
    """Read a line; nothing if it is damaged."""
    try:
        return dict(json.loads(line))
    except (ValueError, TypeError):
        return {}


def _claim(written: Mapping[str, Any]) -> Claim | None:
    """Make a claim of a line; None if it is of a version that says other things."""
    names = {field.name for field in fields(Claim)}
    return Claim(**{name: written[name] for name in names}) if names <= written.keys() else None
