"""Horizontal bars with whiskers as SVG text: groups of bars, each with its median, least and most."""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH, _LEFT, _RIGHT = 760, 190, 90
_BAR, _GAP, _HEADING, _TOP, _BOTTOM = 18, 6, 30, 64, 16
_INK, _SOFT, _PAPER = "#1f2933", "#7b8794", "#ffffff"
_FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: a label, three figures, and whether it is ours."""

    label: str
    median: float
    least: float
    most: float
    is_ours: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Bars below a heading."""

    heading: str
    bars: Sequence[Bar]


def bars_svg(title: str, subtitle: str, groups: Sequence[Group], *, unit: str = "", digits: int = 1) -> str:
    """The picture. All bars share one scale that begins at zero; whiskers go from the least to the most."""
    most = max(bar.most for group in groups for bar in group.bars)
    scale = (_WIDTH - _LEFT - _RIGHT) / most
    lines = [_text(_LEFT - 170, 26, title, size=17, weight=600), _text(_LEFT - 170, 46, subtitle, colour=_SOFT)]
    y = _TOP
    for group in groups:
        lines.append(_text(_LEFT - 170, y + 16, group.heading, size=13, weight=600))
        y += _HEADING
        for bar in group.bars:
            lines += _bar(bar, y, scale, unit, digits)
            y += _BAR + _GAP
    height = y + _BOTTOM
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" role="img" font-family="{_FONT}">'
    )
    paper = f'<rect width="{_WIDTH}" height="{height}" fill="{_PAPER}"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", paper, *lines, "</svg>"]) + "\n"


def _bar(bar: Bar, y: float, scale: float, unit: str, digits: int) -> list[str]:
    middle, long = y + _BAR / 2, max(1.0, bar.median * scale)
    low, high = _LEFT + bar.least * scale, _LEFT + bar.most * scale
    colour = "#2f6fde" if bar.is_ours else "#b8c2cc"
    return [
        _text(_LEFT - 8, middle + 4, bar.label, anchor="end"),
        f'<rect x="{_LEFT}" y="{y}" width="{long:.1f}" height="{_BAR}" fill="{colour}" rx="2"/>',
        f'<path d="M{low:.1f} {middle} H{high:.1f} M{low:.1f} {middle - 4} v8 M{high:.1f} {middle - 4} v8" '
        f'stroke="{_INK}" fill="none"/>',
        _text(max(_LEFT + long, high) + 8, middle + 4, f"{bar.median:.{digits}f}{unit}"),
    ]


def _text(
    x: float, y: float, words: str, *, size: int = 12, weight: int = 400, colour: str = _INK, anchor: str = "start"
) -> str:
    style = f'font-size="{size}" font-weight="{weight}" fill="{colour}" text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'
