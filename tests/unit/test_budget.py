from __future__ import annotations

import pytest

from shrinkc.analysis.cost import Cost
from shrinkc.budget import parse
from shrinkc.errors import RecipeError

DENSE = Cost(macs=2_000_000, parameters=1000, size_bytes=4096)


@pytest.mark.parametrize(
    ("quantity", "text", "limit"),
    [
        ("macs", "50%", 1e6),
        ("macs", "1.5M", 1.5e6),
        ("macs", "800k", 8e5),
        ("parameters", "12.5 %", 125),
        ("parameters", "300", 300),
        ("size_bytes", "2KiB", 2048),
        ("size_bytes", "1kb", 1000),
        ("size_bytes", "25%", 1024),
    ],
)
def test_budgets_are_read_in_the_units_people_write(quantity: str, text: str, limit: float) -> None:
    assert parse(quantity, text).limit(DENSE) == pytest.approx(limit)


@pytest.mark.parametrize("text", ["", "half", "-5%", "0%", "100%", "120%", "5 furlongs", "1e3", "0", "%"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(RecipeError):
        parse("macs", text)


def test_a_unit_of_bytes_is_no_unit_of_counts() -> None:
    with pytest.raises(RecipeError):
        parse("macs", "3MB")


def test_a_budget_is_met_at_its_limit() -> None:
    assert parse("macs", "50%").is_met(Cost(1_000_000, 0, 0), DENSE)
    assert not parse("macs", "50%").is_met(Cost(1_000_001, 0, 0), DENSE)
