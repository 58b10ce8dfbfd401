r"""Growth curves by least squares of ln y, and their AIC = N ln(RSS/N) + 2k.

    power        y = a t^b
    exponential  y = a e^{bt}
    logarithmic  y = a + b ln t
    constant     y = a
    parabola     ln y = a + b ln t + c (ln t)²

The parabola is not a model of growth: it shows whether a curve has a curvature that no
other model describes.

References:
    Burnham & Anderson 2002 (AIC).
"""

from typing import Any

import numpy as np
from scipy.optimize import least_squares

MODELS = ("power law", "exponential", "logarithmic", "constant")
# Number of free parameters besides the error variance; two by default.
_PARAMETERS = {"constant": 1, "parabola": 3}


def compare_models(
    t: np.ndarray, log_t: np.ndarray, log_y: np.ndarray
) -> tuple[dict[str, float], float, float]:
    """AIC of each model, and exponent and offset of the power law."""
    power_slope, power_offset, power = _line(log_t, log_y)
    residuals = {
        "power law": power,
        "exponential": _line(t, log_y)[2],
        "logarithmic": _logarithmic(log_t, log_y),
        "constant": float(np.sum((log_y - log_y.mean()) ** 2)),
        "parabola": _parabola(log_t, log_y),
    }
    # Errors below rounding do not distinguish models.
    floor = len(t) * (np.finfo(np.float64).eps * max(1.0, np.abs(log_y).max())) ** 2
    aic = {
        model: len(t) * float(np.log(max(rss, floor) / len(t)))
        + 2 * _PARAMETERS.get(model, 2)
        for model, rss in residuals.items()
    }
    return aic, power_slope, power_offset


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Slope, offset and residual sum of squares of ordinary least squares."""
    spread = x - x.mean()
    square = float(spread @ spread)
    slope = float(spread @ y) / square if square > 0 else 0.0
    offset = float(y.mean() - slope * x.mean())
    return slope, offset, float(np.sum((y - offset - slope * x) ** 2))


def _parabola(x: np.ndarray, y: np.ndarray) -> float:
    """Residual sum of squares of a parabola."""
    x = (x - x.mean()) / (np.ptp(x) or 1.0)
    basis = np.stack([np.ones_like(x), x, x**2], axis=1)
    coefficients = np.linalg.lstsq(basis, y, rcond=None)[0]
    return float(np.sum((y - basis @ coefficients) ** 2))


def _logarithmic(log_t: np.ndarray, log_y: np.ndarray) -> float:
    """Residual sum of squares of ln(a + b ln t), fitted by y > 0 at both ends."""
    span = log_t.max() - log_t.min()
    if span == 0:
        return float(np.sum((log_y - log_y.mean()) ** 2))
    u = (log_t - log_t.min()) / span
    slope, offset, _ = _line(u, log_y)

    def residual(ends: np.ndarray) -> np.ndarray:
        return np.logaddexp(ends[0] + _log(1 - u), ends[1] + _log(u)) - log_y

    def jacobian(ends: np.ndarray) -> np.ndarray:
        last = np.exp(ends[1] + _log(u) - residual(ends) - log_y)
        return np.stack([1 - last, last], axis=1)

    start = np.array([offset, offset + slope])
    derivative: Any = jacobian  # SciPy's annotation allows only names of methods
    solution = least_squares(residual, start, jac=derivative, method="lm")
    return float(2 * solution.cost)


def _log(x: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(x)
