"""The report as JSON."""

from __future__ import annotations

import json
import math
from typing import Any

from shrinkc.report.model import Report


def dumps(report: Report) -> str:
    """Report as strict JSON; numbers that are not finite become null."""
    return strict(report.to_json())


def strict(data: Any) -> str:
    """Plain data as strict JSON; numbers that are not finite become null."""
    return json.dumps(_clean(data), indent=1, allow_nan=False) + "\n"


def _clean(data: Any) -> Any:
    if isinstance(data, float) and not math.isfinite(data):
        return None
    if isinstance(data, dict):
        return {str(key): _clean(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_clean(value) for value in data]
    return data
