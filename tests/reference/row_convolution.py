"""The row convolution in NumPy, float64, one unit and one frame at a time: Amodei et al. 2015's equation as printed, j from 1.

    r[t, i] = sum for j = 1 to tau + 1 of W[i, j] h[t + j - 1, i]

W is [unit, column] in the paper. Frames behind the last are zero. Shares nothing with `dsrun.arithmetic.row_convolution`.
"""

import numpy as np


def row_convolution(h: np.ndarray, w: np.ndarray) -> np.ndarray:
    """r [frame, unit] of one utterance's h [frame, unit] and w [unit, tau + 1]."""
    frames, units = h.shape
    columns = w.shape[1]
    r = np.zeros((frames, units))
    for t in range(1, frames + 1):
        for i in range(1, units + 1):
            for j in range(1, columns + 1):
                if t + j - 1 <= frames:
                    r[t - 1, i - 1] += w[i - 1, j - 1] * h[t + j - 2, i - 1]
    return r


def gradients(h: np.ndarray, w: np.ndarray, output_gradient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of sum(r * output_gradient) with respect to h and w."""
    dh, dw = np.zeros_like(h), np.zeros_like(w)
    for t, i, j in np.ndindex(*h.shape, w.shape[1]):
        if t + j < len(h):
            dh[t + j, i] += w[i, j] * output_gradient[t, i]
            dw[i, j] += h[t + j, i] * output_gradient[t, i]
    return dh, dw
