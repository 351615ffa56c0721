"""Factors that lose least of the outputs on data.

Wang, Zheng, Wan, Zhang. SVD-LLM. ICLR 2025: with ``L L^T`` the second moment of the inputs, truncating the singular values of
``M L`` loses exactly their squares of the squared error of the outputs, and nothing of that rank loses less.  Differs: moments
are centred where a bias takes up the mean (METHODS 20.4), and ``L`` is never inverted: the left singular vectors of ``M L`` are
the principal directions of the outputs (Zhang, Zou, He, Sun. Accelerating very deep convolutional networks. TPAMI 2016,
eq. 5), ``A = U_r`` and ``B = U_r^T M``, which holds for singular moments too.
"""

from __future__ import annotations

import numpy as np

from shrinkc.factors import Basis, LinearLayer, directions, root_of


class WhitenedSvd:
    """Principal directions of the outputs."""

    name = "whitened-svd"
    needs_data = True

    def basis(self, layer: LinearLayer) -> Basis:
        """See :class:`shrinkc.factors.Factorization`.

        Raises
        ------
        ValueError
            No data said anything about the layer.
        """
        gain = np.ones_like(layer.gain)
        if layer.outputs is not None and layer.weight.shape[1] <= layer.weight.shape[2]:
            return Basis(np.linalg.eigh(layer.second(layer.outputs))[1][:, :, ::-1], gain)
        if layer.inputs is None:
            raise ValueError(f"nothing is known about {layer.name}")
        roots = [root_of(second) for second in layer.second(layer.inputs)]
        return Basis(directions(layer.weight, roots), gain)
