"""Layers that meet inside attention heads, as products of lower rank: fewer dims in every head.

Queries and keys, and values with what reads them, depend on their products alone.  Heads are turned so that the dims that go
matter least: the truncated singular value decomposition (Eckart, Young 1936) of every product, weighted by data where there are
any, see :mod:`shrinkc.head_folding`.  No layer is added, and the scale of the scores stays what it was.
"""

from __future__ import annotations

import onnx_ir as ir

from shrinkc.api import RuntimeAdapter
from shrinkc.evidence.responses import Batches
from shrinkc.factorable import Found, Scope
from shrinkc.head_folding import pair_candidates
from shrinkc.shapes import Shadow


class Pairs:
    """Two layers become narrower ones; a rank is that of every head."""

    name = "pairs"
    saves_time = True

    def candidates(
        self, model: ir.Model, shadow: Shadow, scope: Scope, batches: Batches, runtime: RuntimeAdapter, seed: int
    ) -> Found:
        """See :class:`shrinkc.factorable.JointForm`."""
        return pair_candidates(self, model, shadow, scope, batches, runtime, seed)
