"""How much of a search's hypervolume each trial stands for, dominated ones included."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vpetl_ray.results.front import log_costs


def hypervolume_shares(
    params: ArrayLike, top1: ArrayLike, *, max_params: float
) -> NDArray[np.float64]:
    """Divide the hypervolume among the trials: each bit of it equally among all that reach it.

    This is the Shapley value of the trials in the game whose worth is the hypervolume (of a union,
    a player's value is the integral of 1 / how many cover the place): the mean gain from adding the
    trial to a random selection of the others. The exclusive contribution, which is zero for all
    but the front, would leave nothing to explain.

    Args:
        params: (N,) trainable parameters.
        top1: (N,) percent.
        max_params: right edge of the hypervolume, as for `front.front_hypervolume`.

    Returns:
        (N,) shares, not negative, that sum up to the hypervolume.
    """
    costs_N2 = log_costs(params, top1)
    reference_2 = log_costs([max_params], [0.0])[0]
    gains_N2 = np.maximum(reference_2 - costs_N2, 0.0)  # how far it reaches in each direction
    x, column_N = np.unique(gains_N2[:, 0], return_inverse=True)
    y, row_N = np.unique(gains_N2[:, 1], return_inverse=True)
    count_XY = np.zeros((len(x), len(y)))
    np.add.at(count_XY, (column_N.ravel(), row_N.ravel()), 1.0)
    # Cell (i, j) reaches from the values before to x[i], y[j]: all at or beyond both cover it.
    covering_XY = count_XY[::-1, ::-1].cumsum(axis=0).cumsum(axis=1)[::-1, ::-1]
    area_XY = np.outer(np.diff(x, prepend=0.0), np.diff(y, prepend=0.0))
    part_XY = np.divide(area_XY, covering_XY, out=np.zeros_like(area_XY), where=covering_XY > 0)
    share_XY = part_XY.cumsum(axis=0).cumsum(axis=1)
    return np.asarray(share_XY[column_N.ravel(), row_N.ravel()])
