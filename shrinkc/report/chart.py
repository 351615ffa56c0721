"""A chart of a sweep as SVG: quality against MACs, and against time where it was measured.  Needs nothing but itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from shrinkc.report.bench import Bench, BenchRow

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6B2C55", "#A89F20")
"""Okabe and Ito's palette: told apart by people who see colours differently."""

BASELINE_COLOUR, ORIGINAL_COLOUR, GRID_COLOUR = "#777777", "#000000", "#dddddd"

WIDTH, HEIGHT = 460, 330
LEFT, RIGHT, TOP, BOTTOM = 64, 28, 34, 52
"""Margins of a panel, in pixels."""

LEGEND_LINE, LEGEND_COLUMN, CHARACTER = 20, 210, 6.6


@dataclass(frozen=True)
class Point:
    """One model; hollow where others had the processor."""

    x: float
    y: float
    is_hollow: bool = False


@dataclass(frozen=True)
class Series:
    """Models of one method, by x."""

    name: str
    points: tuple[Point, ...]
    is_baseline: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes, both of shares.

    Attributes
    ----------
    title, x_label, y_label : str
    series : tuple of Series
    original : Point
    """

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    original: Point


def panels(bench: Bench) -> list[Panel]:
    """Quality against MACs, and against time if that was measured of any model."""
    before = bench.before
    if before is None or bench.score_before is None:
        return []
    original = Point(1.0, bench.score_before)
    macs = _series(bench, lambda row: None if row.cost is None else row.cost.macs / before.macs, lambda row: False)
    found = [Panel(f"{bench.metric} against MACs", "MACs, of the original's", bench.metric, macs, original)]
    times = _series(bench, lambda row: row.latency_share, lambda row: row.latency is not None and row.latency.is_contended)
    if any(series.points for series in times):
        label = "time of a run, of the original's" + (" (hollow: contended)" if bench.is_contended else "")
        found.append(Panel(f"{bench.metric} against time", label, bench.metric, times, original))
    return found


def _series(
    bench: Bench, x_of: Callable[[BenchRow], float | None], is_hollow: Callable[[BenchRow], bool]
) -> tuple[Series, ...]:
    found = []
    for method in dict.fromkeys(row.method for row in bench.rows):
        known = [(x_of(row), row.score, is_hollow(row)) for row in bench.rows if row.method == method]
        points = [Point(x, y, hollow) for x, y, hollow in known if x is not None and y is not None and math.isfinite(x + y)]
        found.append(Series(method, tuple(sorted(points, key=lambda point: point.x)), method == bench.baseline))
    return tuple(found)


def svg(drawn: Sequence[Panel]) -> str:
    """The chart, panels side by side above one legend; empty without panels."""
    if not drawn:
        return ""
    names = [(series.name, colour, series.is_baseline) for series, colour in _coloured(drawn[0].series)]
    columns = max(1, WIDTH * len(drawn) // LEGEND_COLUMN)
    width, height = WIDTH * len(drawn), HEIGHT + LEGEND_LINE * -(-(len(names) + 1) // columns) + 10
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" {size}>']
    lines.append(f'<rect width="{width}" height="{height}" fill="#ffffff"/>')
    for number, panel in enumerate(drawn):
        lines += [f'<g transform="translate({number * WIDTH} 0)">', *_panel(panel), "</g>"]
    for number, (name, colour, is_baseline) in enumerate([("original", ORIGINAL_COLOUR, False), *names]):
        x, y = LEFT + LEGEND_COLUMN * (number % columns), HEIGHT + 6 + LEGEND_LINE * (number // columns)
        mark = (
            _star(x + 12, y)
            if not number
            else _line([(x, y), (x + 24, y)], colour, is_baseline) + _dot(x + 12, y, colour, False)
        )
        lines += [mark, _text(x + 32, y + 4, _shortened(name), "start")]
    return "\n".join([*lines, "</svg>"]) + "\n"


def _coloured(series: Sequence[Series]) -> Iterator[tuple[Series, str]]:
    others = 0
    for one in series:
        yield one, BASELINE_COLOUR if one.is_baseline else COLOURS[others % len(COLOURS)]
        others += not one.is_baseline


def _panel(panel: Panel) -> Iterator[str]:
    everything = [panel.original, *(point for series in panel.series for point in series.points)]
    x_ticks, y_ticks = (ticks([getattr(point, axis) for point in everything]) for axis in ("x", "y"))
    across = _scale(x_ticks, LEFT, WIDTH - RIGHT)
    up = _scale(y_ticks, HEIGHT - BOTTOM, TOP)
    for tick in x_ticks:
        yield _line([(across(tick), TOP), (across(tick), HEIGHT - BOTTOM)], GRID_COLOUR, False, 1)
        yield _text(across(tick), HEIGHT - BOTTOM + 18, _percent(tick, x_ticks), "middle")
    for tick in y_ticks:
        yield _line([(LEFT, up(tick)), (WIDTH - RIGHT, up(tick))], GRID_COLOUR, False, 1)
        yield _text(LEFT - 8, up(tick) + 4, _percent(tick, y_ticks), "end")
    yield _text(LEFT, TOP - 14, panel.title, "start", "bold")
    yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM + 38, panel.x_label, "middle")
    for series, colour in _coloured(panel.series):
        places = [(across(point.x), up(point.y)) for point in series.points]
        if len(places) > 1:
            yield _line(places, colour, series.is_baseline)
        for point, (x, y) in zip(series.points, places, strict=True):
            yield _dot(x, y, colour, point.is_hollow, f"{series.name}: {panel.y_label} {point.y:.2%} at {point.x:.1%}")
    yield _star(across(panel.original.x), up(panel.original.y))


def ticks(values: Sequence[float], wanted: int = 6) -> list[float]:
    """Round numbers at equal steps of 1, 2 or 5 times a power of ten, from below the least value to above the largest."""
    low, high = min(values), max(values)
    span = (high - low) or max(abs(high), 1e-3) * 0.1
    rough = span / (wanted - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _scale(marks: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (value - marks[0]) / (marks[-1] - marks[0]) * (end - start)


def _percent(value: float, marks: Sequence[float]) -> str:
    digits = max(0, -math.floor(math.log10(100 * (marks[1] - marks[0])) + 1e-9))
    return f"{100 * value:.{digits}f} %"


def _line(places: Sequence[tuple[float, float]], colour: str, is_dashed: bool, width: float = 1.8) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dashes = ' stroke-dasharray="5 4"' if is_dashed else ""
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{dashes}/>'


def _dot(x: float, y: float, colour: str, is_hollow: bool, title: str = "") -> str:
    fill = "#ffffff" if is_hollow else colour
    inside = f"<title>{escape(title)}</title>" if title else ""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}" stroke="{colour}" stroke-width="1.8">{inside}</circle>'


def _star(x: float, y: float) -> str:
    """A diamond: the original."""
    corners = f"{x:.1f},{y - 6:.1f} {x + 6:.1f},{y:.1f} {x:.1f},{y + 6:.1f} {x - 6:.1f},{y:.1f}"
    return f'<polygon points="{corners}" fill="{ORIGINAL_COLOUR}"/>'


def _text(x: float, y: float, words: str, anchor: str, weight: str = "normal") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}"'
    return f'<text {place} font-family="sans-serif" font-size="12" fill="#222222">{escape(words)}</text>'


def _shortened(name: str) -> str:
    most = int((LEGEND_COLUMN - 40) / CHARACTER)
    return name if len(name) <= most else f"{name[: most - 1]}…"
