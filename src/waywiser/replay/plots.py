"""Plots as inline SVG, without any library. Colours are CSS variables of the page, so light and dark both work."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 720
LEFT = 150
RIGHT = 24
SHADES = ("var(--c1)", "var(--c2)", "var(--c3)", "var(--c4)", "var(--c5)", "var(--c6)")


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: parts (label, value) stacked in it, and a whisker (low, high) at its end where there is one."""

    label: str
    parts: tuple[tuple[str, float], ...]
    whisker: tuple[float, float] | None = None

    @property
    def total(self) -> float:
        """The length of the whole bar."""
        return sum(value for _, value in self.parts)


@dataclass(frozen=True, slots=True)
class Dot:
    """A point with its intervals. `group` picks the colour, `label` is written beside it (empty: not)."""

    x: float
    y: float
    label: str
    group: int
    x_95: tuple[float, float] | None = None
    y_95: tuple[float, float] | None = None


def usd(value: float) -> str:
    """Write an amount with the digits it needs."""
    if value >= 100:
        return f"${value:,.0f}"
    return f"${value:.2f}" if value >= 1 or not value else f"${value:.2g}" if value < 0.01 else f"${value:.3f}"


def bars(rows: Sequence[Bar], *, shades: dict[str, int], caption: str) -> str:
    """Draw horizontal bars, stacked, each with its total behind it."""
    most = max((max(row.total, row.whisker[1] if row.whisker else 0) for row in rows), default=0) or 1.0
    scale = (WIDTH - LEFT - 90) / most
    step = 34
    out = []
    for index, row in enumerate(rows):
        top, x = 8 + index * step, float(LEFT)
        out.append(_text(LEFT - 10, top + 15, row.label, "end"))
        for name, value in row.parts:
            width = max(value * scale, 0.0)
            shade = SHADES[shades.get(name, 0) % len(SHADES)]
            title = f"{row.label}, {name}: {usd(value)}" if name else f"{row.label}: {usd(value)}"
            out.append(
                f'<rect x="{x:.1f}" y="{top}" width="{width:.1f}" height="22" fill="{shade}">'
                f"<title>{escape(title)}</title></rect>"
            )
            x += width
        if row.whisker is not None:
            low, high = (LEFT + value * scale for value in row.whisker)
            out.append(_whisker(low, top + 11, high, top + 11))
            x = max(x, high)
        out.append(_text(x + 8, top + 15, usd(row.total), "start", strong=True))
    return _svg("".join(out), 16 + step * len(rows), caption)


def histogram(series: Sequence[tuple[str, Sequence[float]]], *, caption: str) -> str:
    """Draw how often a session costs how much, for several courses, over a logarithmic axis."""
    values = [value for _, numbers in series for value in numbers if value > 0]
    if not values:
        return ""
    low, high = math.floor(4 * math.log10(min(values))) / 4, math.ceil(4 * math.log10(max(values))) / 4
    count = max(min(round((high - low) * 12), 60), 8)
    high = high if high > low else low + 0.25
    heights = []
    for _, numbers in series:
        bins = [0] * count
        for value in numbers:
            if value > 0:
                bins[min(int((math.log10(value) - low) / (high - low) * count), count - 1)] += 1
        heights.append(bins)
    most = max(max(bins) for bins in heights)
    tall, left = 200, 50
    wide = (WIDTH - left - RIGHT) / count
    out = []
    for index, bins in enumerate(heights):
        points = [f"{left:.1f},{tall:.1f}"]
        for position, number in enumerate(bins):
            y = tall - number / most * (tall - 16)
            points += [f"{left + position * wide:.1f},{y:.1f}", f"{left + (position + 1) * wide:.1f},{y:.1f}"]
        points.append(f"{WIDTH - RIGHT:.1f},{tall:.1f}")
        shade = SHADES[index % len(SHADES)]
        out.append(
            f'<polygon points="{" ".join(points)}" fill="{shade}" fill-opacity="0.28" stroke="{shade}" '
            f'stroke-width="1.5"/>'
        )
    for exponent in range(math.ceil(low), math.floor(high) + 1):
        x = left + (exponent - low) / (high - low) * (WIDTH - left - RIGHT)
        out.append(f'<line class="grid" x1="{x:.1f}" y1="8" x2="{x:.1f}" y2="{tall}"/>')
        out.append(_text(x, tall + 18, usd(10.0**exponent), "middle"))
    out.append(f'<line class="axis" x1="{left}" y1="{tall}" x2="{WIDTH - RIGHT}" y2="{tall}"/>')
    out.append(_text(left - 8, 24, str(most), "end") + _text(left - 8, tall, "0", "end"))
    out.append(_text(WIDTH / 2, tall + 38, "cost of a session (logarithmic)", "middle"))
    return _svg("".join(out), tall + 48, caption)


def scatter(dots: Sequence[Dot], *, line: Sequence[tuple[float, float]], axes: tuple[str, str], caption: str) -> str:
    """Draw points with their intervals, and a line; x in USD, y as a share."""
    xs = [value for dot in dots for value in (dot.x, *(dot.x_95 or ()))]
    ys = [value for dot in dots for value in (dot.y, *(dot.y_95 or ()))]
    most, low, high = max(xs) * 1.12, max(min(ys) - 0.05, 0.0), min(max(ys) + 0.05, 1.0)
    tall, left = 340, 60

    def place(x: float, y: float) -> tuple[float, float]:
        return left + x / most * (WIDTH - left - RIGHT), tall - (y - low) / (high - low) * (tall - 12)

    out = []
    for tick in range(math.ceil(low * 10), math.floor(high * 10) + 1):
        _, y = place(0, tick / 10)
        out.append(f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>')
        out.append(_text(left - 8, y + 4, f"{10 * tick}%", "end"))
    step = _round_step(most / 5)
    for index in range(int(most / step) + 1):
        x, _ = place(step * index, low)
        out.append(_text(x, tall + 18, f"${step * index:.10g}", "middle"))
    out.append(f'<line class="axis" x1="{left}" y1="{tall}" x2="{WIDTH - RIGHT}" y2="{tall}"/>')
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in line))
    out.append(
        f'<polyline points="{path}" fill="none" stroke="var(--muted)" stroke-dasharray="5 4" stroke-width="1.5"/>'
    )
    for dot in dots:
        x, y = place(dot.x, dot.y)
        shade = SHADES[dot.group % len(SHADES)]
        if dot.x_95 is not None:
            out.append(_whisker(place(dot.x_95[0], 0)[0], y, place(dot.x_95[1], 0)[0], y, shade))
        if dot.y_95 is not None:
            out.append(_whisker(x, place(0, dot.y_95[0])[1], x, place(0, dot.y_95[1])[1], shade))
        title = escape(f"{dot.label}: {usd(dot.x)} a task, {dot.y:.1%} successful")
        size = 5.5 if dot.label else 2.5
        out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" fill="{shade}"><title>{title}</title></circle>')
        if dot.label:
            out.append(_text(x + 9, y - 8, dot.label, "start", strong=True))
    out.append(_text(WIDTH / 2, tall + 38, axes[0], "middle"))
    return _svg("".join(out), tall + 48, caption)


def _round_step(least: float) -> float:
    """Return the next 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)


def legend(names: Sequence[tuple[str, int]]) -> str:
    """Explain the colours."""
    items = "".join(
        f'<span class="key"><i style="background:{SHADES[shade % len(SHADES)]}"></i>{escape(name)}</span>'
        for name, shade in names
    )
    return f'<p class="legend">{items}</p>'


def _svg(inner: str, height: float, caption: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(caption)}">{inner}</svg>'


def _text(x: float, y: float, text: str, anchor: str, *, strong: bool = False) -> str:
    name = ' class="strong"' if strong else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{name}>{escape(text)}</text>'


def _whisker(x1: float, y1: float, x2: float, y2: float, shade: str = "var(--ink)") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{shade}" stroke-width="2"/>'
