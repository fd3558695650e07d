"""A Gaussian process for a few hundred noisy points, with each point's own noise.

A straight line in each input, and Matern 5/2 with a length scale for each for what those leave,
fitted by maximum a posteriori. Most of what a choice does, it does whatever the others are, and the
lines learn that from a few points. The prior of the length scales grows with the number of inputs,
which makes the same model fit five inputs or fifty (Hvarfner et al. 2024, arXiv 2402.02229).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

Array = NDArray[np.float64]

_JITTER = 1e-6
_MIDDLE = 0.5  # of the inputs
_LOGS = (0.0, -3.0, 1.0)
_LOG_WIDTHS = (1.0, 1.5, 1.0)  # of their priors
_BOUNDS = (-6.0, 6.0)  # of logarithms
_NOISE_BOUNDS = (-7.0, 1.0)


class GaussianProcess:
    """Fit on what is known, predict what is not.

    Hyperparameters are kept from fit to fit, and only searched again when asked for.

    Args:
        num_inputs: D.
        trend: of inputs (M, D) the features (M, K) whose straight combination is taken off first:
            far from all points, that is what is believed.
        doubt: K numbers, for each feature how much spread of it, squared, it takes to believe that
            it matters.
    """

    def __init__(
        self, num_inputs: int, trend: Callable[[Array], Array], doubt: Sequence[float]
    ) -> None:
        self._features = trend
        self._doubt_K = np.array(doubt)
        self._slopes_K: Array = np.zeros(len(doubt))
        # One below the published prior: after a dozen trials the error is a tenth smaller (demo).
        self._centre = np.sqrt(2.0) - 1.0 + 0.5 * np.log(max(num_inputs, 1))
        # log of: signal variance, noise variance, slope variance, D length scales
        self._logs = np.concatenate([_LOGS, np.full(num_inputs, self._centre)])
        self._x_ND: Array = np.empty((0, num_inputs))
        self._weights_N: Array = np.empty(0)
        self._factor: tuple[Array, bool] = np.empty((0, 0)), True

    def fit(self, x_ND: Array, y_N: Array, variance_N: Array, *, search: bool) -> None:
        """Condition on points.

        Args:
            x_ND: inputs, each about 0..1.
            y_N: outputs in any unit.
            variance_N: noise that is known of each output, in its unit squared, beside the noise
                that is the same for all and fitted.
            search: whether to search the hyperparameters again, too.
        """
        features_NK = self._features(x_ND)
        known_KK = features_NK.T @ features_NK + np.diag(self._doubt_K)
        self._slopes_K = np.asarray(np.linalg.solve(known_KK, features_NK.T @ y_N), np.float64)
        left_N = y_N - self._trend(x_ND)
        self._unit = float(left_N.std()) or 1.0
        self._x_ND = x_ND
        self._y_N = left_N / self._unit
        self._variance_N = variance_N / self._unit**2
        if search:
            self._search()
        self._condition()

    def mean(self, x_MD: Array) -> Array:
        """Return the mean of the noiseless output alone, (M,)."""
        cross_MN = self._kernel(x_MD, self._x_ND)
        mean_M: Array = cross_MN @ self._weights_N * self._unit + self._trend(x_MD)
        return mean_M

    def believe(self, x_RD: Array, variance: float) -> Array:
        """Condition on points as if they came out as predicted ("kriging believer").

        Nothing expected changes by that, only how sure it is; so the fit is extended and not
        repeated.

        Args:
            x_RD: inputs.
            variance: noise of their outputs, in its unit squared.

        Returns:
            What is predicted of them, (R,).
        """
        believed_R, _ = self.predict(x_RD)
        lower_NN = np.tril(self._factor[0])
        cross_NR = self._kernel(self._x_ND, x_RD)
        low_NR = solve_triangular(lower_NN, cross_NR, lower=True, check_finite=False)
        gram_RR = self._kernel(x_RD, x_RD) - low_NR.T @ low_NR
        noise = np.exp(self._logs[1]) + variance / self._unit**2 + _JITTER
        gram_RR[np.diag_indices_from(gram_RR)] += noise
        corner_RR = np.linalg.cholesky(gram_RR)
        factor = np.block([[lower_NN, np.zeros_like(cross_NR)], [low_NR.T, corner_RR]])
        self._factor = (np.asfortranarray(factor), True)
        self._weights_N = np.concatenate([self._weights_N, np.zeros(len(x_RD))])
        self._x_ND = np.vstack([self._x_ND, x_RD])
        return believed_R

    def predict(self, x_MD: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation of the noiseless output, each (M,), in its unit."""
        cross_MN = self._kernel(x_MD, self._x_ND)
        mean_M = cross_MN @ self._weights_N
        half_NM = solve_triangular(self._factor[0], cross_MN.T, lower=True, check_finite=False)
        slopes_M = np.exp(self._logs[2]) * ((x_MD - _MIDDLE) ** 2).sum(axis=1)
        variance_M = np.exp(self._logs[0]) + slopes_M - np.einsum("nm,nm->m", half_NM, half_NM)
        sd_M = np.sqrt(np.maximum(variance_M, 1e-10))
        return mean_M * self._unit + self._trend(x_MD), sd_M * self._unit

    def _trend(self, x_MD: Array) -> Array:
        trend_M: Array = self._features(x_MD) @ self._slopes_K
        return trend_M

    def _condition(self) -> None:
        gram_NN = self._kernel(self._x_ND, self._x_ND)
        gram_NN[np.diag_indices_from(gram_NN)] += np.exp(self._logs[1]) + self._variance_N + _JITTER
        self._factor = cho_factor(gram_NN, lower=True, check_finite=False)
        self._weights_N = cho_solve(self._factor, self._y_N, check_finite=False)

    def _kernel(self, a_MD: Array, b_ND: Array) -> Array:
        # In place: a trial asks for four of these, and most of their time would go on new memory.
        lines_MN = (a_MD - _MIDDLE) @ (b_ND - _MIDDLE).T
        lines_MN *= np.exp(self._logs[2])
        scales_D = np.exp(self._logs[3:]) / np.sqrt(5.0)
        a_MD, b_ND = a_MD / scales_D, b_ND / scales_D
        root_MN = (-2.0 * a_MD) @ b_ND.T
        root_MN += (a_MD**2).sum(1)[:, None]
        root_MN += (b_ND**2).sum(1)
        np.sqrt(np.maximum(root_MN, 0.0, out=root_MN), out=root_MN)
        matern_MN: Array = root_MN / 3.0
        matern_MN += 1.0
        matern_MN *= root_MN
        matern_MN += 1.0
        matern_MN *= np.exp(np.negative(root_MN, out=root_MN), out=root_MN)
        matern_MN *= np.exp(self._logs[0])
        matern_MN += lines_MN
        return matern_MN

    def _search(self) -> None:
        squared_DNN = (self._x_ND.T[:, :, None] - self._x_ND.T[:, None, :]) ** 2
        away_ND = self._x_ND - _MIDDLE
        bounds = [_BOUNDS, _NOISE_BOUNDS, *[_BOUNDS] * (len(self._logs) - 2)]
        found = minimize(
            self._loss,
            self._logs,
            args=(squared_DNN, away_ND @ away_ND.T),
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"maxiter": 60},
        )
        self._logs = found.x

    def _loss(self, logs: Array, squared_DNN: Array, lines_NN: Array) -> tuple[float, Array]:
        """Negative log posterior of the hyperparameters, and its gradient."""
        signal, noise, slope = np.exp(logs[:3])
        weights_D = np.exp(-2.0 * logs[3:])
        root_NN = np.sqrt(5.0 * np.tensordot(weights_D, squared_DNN, axes=1))
        decay_NN = np.exp(-root_NN)
        kernel_NN = signal * (1.0 + root_NN + root_NN**2 / 3.0) * decay_NN
        gram_NN = kernel_NN + slope * lines_NN
        gram_NN[np.diag_indices_from(gram_NN)] += noise + self._variance_N + _JITTER
        factor = cho_factor(gram_NN, lower=True, check_finite=False)
        inverse_NN = cho_solve(factor, np.eye(len(gram_NN)), check_finite=False)
        alpha_N = inverse_NN @ self._y_N
        pull_NN = inverse_NN - np.outer(alpha_N, alpha_N)
        loss = 0.5 * self._y_N @ alpha_N + np.log(np.diag(factor[0])).sum()
        # d kernel / d log scale_d = signal * 5/3 * (1 + root) * decay * squared_d / scale_d^2
        slope_NN = pull_NN * (signal * (5.0 / 3.0) * (1.0 + root_NN) * decay_NN)
        gradient: Array = np.concatenate(
            [
                [
                    0.5 * (pull_NN * kernel_NN).sum(),
                    0.5 * noise * np.trace(pull_NN),
                    0.5 * slope * (pull_NN * lines_NN).sum(),
                ],
                0.5 * weights_D * np.tensordot(squared_DNN, slope_NN, axes=2),
            ]
        )
        away = np.concatenate([logs[:3] - _LOGS, logs[3:] - self._centre])
        width = np.concatenate([_LOG_WIDTHS, np.full(len(logs) - 3, np.sqrt(3.0))])
        gradient += away / width**2
        return float(loss + 0.5 * ((away / width) ** 2).sum()), gradient
