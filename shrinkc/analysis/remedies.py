"""What an engineer can do about a reason for which channels stay."""

from __future__ import annotations

from shrinkc.analysis.flow import Blocker

RE_EXPORT = "re-export with torch.onnx.export(..., dynamo=True)"

REMEDIES: tuple[tuple[str, str], ...] = (
    ("graph output", "none: the width of an output is part of the model's interface"),
    ("graph input", "none: the width of an input is part of the model's interface"),
    ("residual stream that is normalised", "--prune conv,mlp,heads,stream"),
    ("dims of attention heads stay whole", "--prune conv,mlp,heads,head-dim"),
    ("heads stay whole unless", "--prune conv,mlp,heads,head-dim"),
    ("--prune does not name", "name the kind in --prune"),
    ("--exclude", "drop the pattern"),
    ("--include", "widen the pattern"),
    ("no rule for operator", f"register a rule for it (CONTRIBUTING.md), or {RE_EXPORT} so that it is spelt out"),
    ("is computed by", "fold constants before (onnxscript.optimizer.optimize), or export in eval mode"),
    ("shape of", f"give the sizes with --input-shapes, or {RE_EXPORT}"),
    ("computed from the data", RE_EXPORT),
    ("table of indices", RE_EXPORT),
    ("is malformed", "check the model with onnx.checker.check_model"),
    ("subgraph", "export without control flow if the branches are fixed at deployment"),
)
"""Pieces of reasons, the first that fits counts, and what helps."""


def remedy(blocker: Blocker) -> str:
    """What to try, empty where nothing general can be said.

    Examples
    --------
    >>> remedy(Blocker("head", "Gemm", "graph output logits"))
    "none: the width of an output is part of the model's interface"
    """
    return next((advice for piece, advice in REMEDIES if piece in blocker.reason), "")
