"""The report as JSON."""

from __future__ import annotations

import json
import math
from typing import Any, Protocol


class Reporting(Protocol):
    """A report of any command."""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""


def dumps(report: Reporting) -> str:
    """Report as strict JSON; numbers that are not finite become null."""
    return strict(report.to_json())


def strict(data: Any) -> str:
    """Plain data as strict JSON; numbers that are not finite become null."""
    return json.dumps(clean(data), indent=1, allow_nan=False) + "\n"


def clean(data: Any) -> Any:
    """Plain data with null for numbers that are not finite."""
    if isinstance(data, float) and not math.isfinite(data):
        return None
    if isinstance(data, dict):
        return {str(key): clean(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [clean(value) for value in data]
    return data
