import threading

import pytest
import torch
from torch import Tensor

from vpetl_ray.training.prefetch import in_thread, read_ahead

BATCHES = torch.arange(12).split(5)


def test_every_batch_comes_in_its_order_one_ahead():
    read: list[list[int]] = []

    def rows(indices: Tensor) -> Tensor:
        assert threading.current_thread() is not threading.main_thread()
        read.append(indices.tolist())
        return indices * 10

    given = []
    for number, batch in enumerate(in_thread(rows, BATCHES)):
        given.append(batch().tolist())
        assert len(read) <= number + 2
    assert given == [(batch * 10).tolist() for batch in BATCHES]


def test_what_reading_raises_comes_out_at_its_batch():
    def rows(indices: Tensor) -> Tensor:
        if 7 in indices.tolist():
            raise OSError("the file is gone")
        return indices

    batches = in_thread(rows, BATCHES)
    assert len(next(batches)()) == 5
    with pytest.raises(OSError, match="gone"):
        next(batches)()


def test_the_cpu_reads_when_it_is_asked():
    threads = []

    def rows(indices: Tensor) -> Tensor:
        threads.append(threading.current_thread())
        return indices

    given = [batch() for batch in read_ahead(rows, BATCHES, torch.device("cpu"))]
    assert [rows.tolist() for rows in given] == [batch.tolist() for batch in BATCHES]
    assert set(threads) == {threading.main_thread()}
