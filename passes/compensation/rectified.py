"""Refit of every layer to what its rectifier lets through.

Zhang, Zou, He, Sun. Accelerating Very Deep Convolutional Networks. TPAMI 2016, section 3.2 (nonlinear, asymmetric
reconstruction): ``min |r(y) - r(M x + b)|^2`` with ``r`` the rectifier and inputs ``x`` of the cut network.  Where the target
is cut off, every output that is cut off too is as good.  Differs: their auxiliary variable and penalty are replaced by a
majorisation, which needs no parameter and never gets worse: a target that is cut off is moved to the present output if that
is cut off, else to the limit, and the linear refit is done again.
"""

from __future__ import annotations

import numpy as np
from scipy import linalg

from shrinkc.api import Fit, FloatArray, Layer, Repair, Repaired
from shrinkc.evidence.fitting import fit_rows
from shrinkc.evidence.regression import affine_refit, ridge_of
from shrinkc.evidence.rows import Rows

STEPS = 12


class Rectified:
    """See the module; layers without a rectifier behind them get the affine refit."""

    name = "rectified"
    needs_data = True

    def apply(self, repair: Repair) -> Repaired:
        """See :class:`shrinkc.api.Compensation`."""
        return fit_rows(repair, rectified_refit)


def rectified_refit(layer: Layer, rows: Rows) -> Fit:
    """Weights and bias whose rectified outputs are nearest to the rectified targets."""
    fit = affine_refit(layer)
    if (rows.cut_below is None and rows.cut_above is None) or not layer.can_shift:
        return fit
    solver = _Solver(layer, rows)
    for _ in range(STEPS):
        fit = solver.towards(_moved(rows, _outputs(rows.inputs, fit)))
    return fit


def _outputs(inputs: FloatArray, fit: Fit) -> FloatArray:
    weight = fit.weight.transpose(0, 2, 1).astype(inputs.dtype)
    outputs: FloatArray = np.matmul(inputs, weight) + fit.bias[:, None, :].astype(inputs.dtype)
    return outputs


def _moved(rows: Rows, outputs: FloatArray) -> FloatArray:
    """Targets, where they are cut off moved to the present outputs or, if those are not, to the limit."""
    targets = rows.targets
    if rows.cut_below is not None:
        targets = np.where(targets <= rows.cut_below, np.minimum(outputs, rows.cut_below), targets)
    if rows.cut_above is not None:
        targets = np.where(targets >= rows.cut_above, np.maximum(outputs, rows.cut_above), targets)
    return targets


class _Solver:
    """The affine refit of one layer for changing targets; its covariance is factored once."""

    def __init__(self, layer: Layer, rows: Rows) -> None:
        moments = layer.moments.inputs
        self._inputs, self._mean, self._prior = rows.inputs, moments.mean, layer.weight
        covariances = moments.covariance()
        self._ridges = [ridge_of(covariance, moments.rows) for covariance in covariances]
        for covariance, ridge in zip(covariances, self._ridges, strict=True):
            covariance[np.diag_indices(len(covariance))] += ridge
        # Transposed they are the same, and lie in memory as LAPACK wants them: nothing is copied.
        self._factors = [linalg.cho_factor(covariance.T, overwrite_a=True) for covariance in covariances]

    def towards(self, targets: FloatArray) -> Fit:
        """Fit to other targets."""
        n = targets.shape[1]
        mean = targets.mean(1, dtype=np.float64)
        cross = np.matmul(targets.transpose(0, 2, 1), self._inputs) / n - mean[:, :, None] * self._mean[:, None, :]
        weight = np.stack(
            [
                linalg.cho_solve(factor, (own + ridge * prior).T).T
                for factor, own, ridge, prior in zip(self._factors, cross, self._ridges, self._prior, strict=True)
            ]
        )
        return Fit(weight, mean - np.einsum("goc,gc->go", weight, self._mean))
