"""What the tests of the cluster share with those of the doors: a tiny data set and its spec."""

from tests.doors.conftest import SPEC, cache, videos

__all__ = ["SPEC", "cache", "videos"]
