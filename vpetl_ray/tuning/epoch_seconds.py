"""How long an epoch of a config takes, by those that were timed: deep configs are dearer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_FEWEST = 3
_DOUBT = 0.3  # how much spread of an input, squared, it takes to believe that it matters


class EpochSeconds:
    """A ridge regression of the logarithm.

    Args:
        x_ND: configs as vectors, N may be 0.
        seconds: of an epoch of each, all above 0.
    """

    def __init__(self, x_ND: Array, seconds: Sequence[float]) -> None:
        self._is_known = len(seconds) >= _FEWEST
        if not self._is_known:
            return
        logs_N = np.log(seconds)
        self._mean, self._low, self._high = logs_N.mean(), logs_N.min(), logs_N.max()
        self._centre_D = x_ND.mean(axis=0)
        away_ND = x_ND - self._centre_D
        known_DD = away_ND.T @ away_ND + _DOUBT * np.eye(away_ND.shape[1])
        self._slopes_D = np.linalg.solve(known_DD, away_ND.T @ (logs_N - self._mean))

    def relative(self, x_MD: Array) -> Array:
        """Predict seconds an epoch, (M,), as a multiple of their geometric mean."""
        if not self._is_known:
            return np.ones(len(x_MD))
        predicted_M = (x_MD - self._centre_D) @ self._slopes_D + self._mean
        relative_M: Array = np.exp(np.clip(predicted_M, self._low, self._high) - self._mean)
        return relative_M
