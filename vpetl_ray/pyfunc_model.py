"""What MLflow loads a model by: `mlflow.pyfunc.load_model`, `mlflow models serve`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from vpetl_ray.errors import DataError
from vpetl_ray.inference.find import find_adapter

if TYPE_CHECKING:
    from vpetl_ray.inference.video_model import Prediction, VideoModel


class PyfuncModel:
    """Answers tables of videos: a column `video` with a file's bytes, or `path` with its path.

    `path` is of the machine that the model runs on.
    """

    def __init__(self, model: VideoModel) -> None:
        self.model = model

    def predict(
        self, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Classify each row's video.

        Returns:
            label and its probability; labels and probabilities of all classes, best first.

        Raises:
            MlflowException: a row has no video, or one that cannot be read. Of its own exceptions
                alone MLflow's server tells the client the sentence.

        """
        from mlflow.exceptions import MlflowException  # noqa: PLC0415 - who calls has it

        answers = []
        for number, row in enumerate(model_input.to_dict("records")):
            try:
                answers.append(self._row(row))
            except DataError as error:
                raise MlflowException.invalid_parameter_value(f"row {number}: {error}") from error
        return pd.DataFrame(
            {
                "label": [answer.label for answer in answers],
                "probability": [answer.probability for answer in answers],
                "labels": [list(answer.labels) for answer in answers],
                "probabilities": [list(answer.probabilities) for answer in answers],
            }
        )

    def _row(self, row: dict[Any, Any]) -> Prediction:
        content, path = row.get("video"), row.get("path")
        if isinstance(content, bytes | bytearray):
            with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
                file.write(content)
                file.flush()
                return self.model.predict(file.name)
        if isinstance(path, str) and path:
            return self.model.predict(path)
        raise DataError("has neither `video`, a file's bytes, nor `path`")


def _load_pyfunc(path: str) -> PyfuncModel:
    """Load the model in a folder; MLflow calls it by this name."""
    from vpetl_ray.inference.video_model import load_model  # noqa: PLC0415 - torch takes seconds

    return PyfuncModel(load_model(find_adapter(Path(path))))
