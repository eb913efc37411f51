"""Plots as SVG, written by hand: curves and bars in panels side by side. Pure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

_WIDTH, _HEIGHT = 460, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 34, 46
_INK, _FAINT = "#333", "#ddd"
_COLOURS = ("#1f6fb4", "#d9741a", "#2e8b57", "#a63d8f", "#7a6a00", "#b03030")

Point = tuple[float, float]


@dataclass(frozen=True)
class Curves:
    """Lines through points. `log`: logarithmic across. `marks`: moments, shown as upright lines."""

    title: str
    across: str
    up: str
    lines: Mapping[str, Sequence[Point]]
    log: bool = False
    marks: Sequence[float] = field(default=())


@dataclass(frozen=True)
class Bars:
    """One bar a name; less is better, or more, as the title says."""

    title: str
    unit: str
    values: Mapping[str, float]


def draw(panels: Sequence[Curves | Bars], *, columns: int = 2) -> str:
    """A whole SVG document, readable on white paper whatever the page around it."""
    rows = math.ceil(len(panels) / columns)
    width, height = _WIDTH * min(columns, len(panels)), _HEIGHT * rows
    body = []
    for number, panel in enumerate(panels):
        place = f"translate({number % columns * _WIDTH} {number // columns * _HEIGHT})"
        body.append(
            f'<g transform="{place}">{"".join(_curves(panel) if isinstance(panel, Curves) else _bars(panel))}</g>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12" fill="{_INK}"><rect width="100%" height="100%" fill="#fff"/>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


def _text(x: float, y: float, words: str, anchor: str = "middle", extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{escape(words)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, extra: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{extra}/>'


def _curves(panel: Curves) -> Iterable[str]:
    points = [point for line in panel.lines.values() for point in line]
    left, right = (min(x for x, _ in points), max(x for x, _ in points)) if points else (0.0, 1.0)
    top = max((y for _, y in points), default=1.0) or 1.0
    if panel.log:
        left, right = math.floor(math.log10(max(left, 1e-6))), math.ceil(math.log10(max(right, 1e-5)))
    right = right if right > left else left + 1

    def across(x: float) -> float:
        share = ((math.log10(max(x, 1e-6)) if panel.log else x) - left) / (right - left)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def up(y: float) -> float:
        return _HEIGHT - _BOTTOM - y / top * (_HEIGHT - _TOP - _BOTTOM)

    yield _text(_WIDTH / 2, 18, panel.title, extra=' font-weight="bold"')
    yield _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, panel.across)
    turned = f' transform="rotate(-90 14 {_HEIGHT / 2})"'
    yield _text(14, _HEIGHT / 2, panel.up, extra=turned)
    ticks = [10.0**n for n in range(int(left), int(right) + 1)] if panel.log else _ticks(left, right)
    for x in ticks:
        yield _line(across(x), up(0), across(x), up(top), _FAINT)
        yield _text(across(x), _HEIGHT - _BOTTOM + 16, f"{x:g}")
    for y in _ticks(0, top):
        yield _line(_LEFT, up(y), _WIDTH - _RIGHT, up(y), _FAINT)
        yield _text(_LEFT - 6, up(y) + 4, f"{y:g}", "end")
    for x in panel.marks:
        yield _line(across(x), up(0), across(x), up(top), _COLOURS[-1], ' stroke-dasharray="4 3"')
    for number, (name, line) in enumerate(panel.lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in line)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>'
        yield _text(_LEFT + 8, _TOP + 14 + 15 * number, name, "start", f' style="fill:{colour}"')


def _bars(panel: Bars) -> Iterable[str]:
    most = max(panel.values.values(), default=1.0) or 1.0
    yield _text(_WIDTH / 2, 18, panel.title, extra=' font-weight="bold"')
    step = (_HEIGHT - _TOP - 16) / max(1, len(panel.values))
    for number, (name, value) in enumerate(panel.values.items()):
        y, wide = _TOP + number * step, max(1.0, value / most * (_WIDTH - 130 - 90))
        colour = _COLOURS[0] if number == 0 else "#9aa7b3"
        yield _text(122, y + step / 2 + 4, name, "end")
        yield f'<rect x="130" y="{y + step * 0.15:.1f}" width="{wide:.1f}" height="{step * 0.7:.1f}" fill="{colour}"/>'
        yield _text(136 + wide, y + step / 2 + 4, f"{value:.3g} {panel.unit}", "start")


def _ticks(least: float, most: float) -> list[float]:
    """Four to ten round numbers."""
    rough = (most - least) / 6
    step = 10 ** math.floor(math.log10(rough))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= rough)
    return [round(n * step, 12) for n in range(math.ceil(least / step), math.floor(most / step) + 1)]
