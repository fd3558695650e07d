"""One private Ray for all tests of this floor that need one; it starts when the first asks."""

import pytest

from vpetl_ray.tuning.cluster import ray_session


@pytest.fixture(scope="session")
def ray_cluster():
    with ray_session("local", num_cpus=2):
        yield
