"""Element-wise operators of onnxruntime's own domain."""

from __future__ import annotations

from shrinkc.analysis.flow import RuleTable
from shrinkc.analysis.oprules.elementwise import nary

RULES: RuleTable = {("com.microsoft", op): nary for op in ("BiasGelu", "FastGelu", "Gelu", "QuickGelu")}
