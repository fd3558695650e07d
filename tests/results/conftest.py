from collections.abc import Callable

import pytest

from vpetl_ray.results.records import EpochRow, Scalar, TrialRecord, TrialState

RecordMaker = Callable[..., TrialRecord]


@pytest.fixture
def make_record() -> RecordMaker:
    def make(
        number: int,
        params: int = 10_000,
        top1: float | None = 70.0,
        state: TrialState = TrialState.COMPLETE,
        **changes: object,
    ) -> TrialRecord:
        config: dict[str, Scalar | None] = {
            "petl.patt.targets": "kv",
            "petl.patt.d_bottle": 8,
            "petl.patt.scale": 0.8,
            "petl.adapter.enabled": False,
            "petl.adapter.d_bottle": None,
            "training.learning_rate": 0.01,
        }
        curve = tuple(
            EpochRow(epoch=epoch, top1=top1, loss=1.0 / epoch, train_loss=2.0 / epoch, seconds=2.0)
            for epoch in (1, 2, 3)
        )
        values: dict[str, object] = {
            "id": f"t{number:04d}",
            "number": number,
            "state": state,
            "trainable_params": params,
            "top1": top1,
            "loss": 1.0 / 3,
            "epochs": 3,
            "seconds": 6.0,
            "group": 0,
            "config": config,
            "curve": curve,
        }
        return TrialRecord(**(values | changes))  # type: ignore[arg-type]

    return make
