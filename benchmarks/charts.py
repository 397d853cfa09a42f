"""Line charts with intervals as inline SVG; colours follow the page's light or dark scheme."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.html import Html, element

WIDTH, HEIGHT = 520, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 18, 44


@dataclass(frozen=True)
class Series:
    """One curve, with a band where ``low`` and ``high`` are given.

    Attributes:
        name: for the tooltip.
        colour: the index of a colour of the page.
        x, y: ``(n,)``; a single point at 0 makes a level across the chart.
        low, high: ``(n,)`` or None.
        breaks: indices at which the line begins anew.
    """

    name: str
    colour: int
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    breaks: Sequence[int] = ()

    @property
    def is_level(self) -> bool:
        """Whether it is one point at 0: a reference, which does not learn."""
        return len(self.x) == 1 and bool(self.x[0] <= 0)

    def above_zero(self) -> Series:
        """Its points at positive x."""
        kept = self.x > 0
        low, high = (None if part is None else part[kept] for part in (self.low, self.high))
        return Series(self.name, self.colour, self.x[kept], self.y[kept], low, high)

    def pieces(self) -> list[slice]:
        """The indices of each unbroken piece."""
        edges = [0, *self.breaks, len(self.x)]
        return [slice(*pair) for pair in itertools.pairwise(edges)]


def line_chart(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    y_range: tuple[float, float] | None = None,
    marks: Mapping[float, str] | None = None,
    x_log: bool = False,
) -> Html:
    """A chart.

    Args:
        series: at least one, with finite values.
        x_label: with units; the axis begins at 0, or below.
        y_label: with units.
        y_range: default: what the values span.
        marks: x positions of vertical lines (episode boundaries), with what to write above them.
        x_log: a logarithmic axis; points at 0 are left out. For series without breaks.
    """
    x_log = x_log and not all(s.is_level for s in series)
    if x_log:
        series = [s if s.is_level else s.above_zero() for s in series]
        x_low, x_high = _span([s.x for s in series if not s.is_level])
    else:
        x_low, x_high = _span([np.zeros(1), *(s.x for s in series)])
    y_low, y_high = y_range or _padded(
        _span([a for s in series for a in (s.y, s.low, s.high) if a is not None])
    )
    frame = _Frame(x_low, x_high, y_low, y_high, x_log)
    parts = [*_axes(frame, x_label, y_label), *_marks(frame, marks or {})]
    parts += [band for s in series for band in _bands(frame, s)]
    parts += [part for s in series for part in _line(frame, s)]
    label = f"{y_label} by {x_label}"
    return element(
        "svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label, class_="chart"
    )


@dataclass(frozen=True)
class _Frame:
    """The mapping from values to the drawing."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    x_log: bool = False

    def x(self, value: float) -> float:
        low, value, high = (self._scaled(x) for x in (self.x_low, value, self.x_high))
        return round(LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT), 2)

    def _scaled(self, x: float) -> float:
        return math.log(x) if self.x_log else x

    def x_ticks(self) -> list[float]:
        if not self.x_log:
            return ticks(self.x_low, self.x_high, 6)
        return log_ticks(self.x_low, self.x_high)

    def y(self, value: float) -> float:
        inside = min(max(value, self.y_low), self.y_high)
        return round(TOP + (self.y_high - inside) / (self.y_high - self.y_low) * (HEIGHT - TOP - BOTTOM), 2)


def _span(arrays: Sequence[np.ndarray]) -> tuple[float, float]:
    values = np.concatenate([np.ravel(array) for array in arrays])
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low, low + 1.0)


def _padded(span: tuple[float, float]) -> tuple[float, float]:
    margin = 0.05 * (span[1] - span[0])
    return span[0] - margin, span[1] + margin


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values between two bounds: steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten between two positive bounds; over many decades the powers alone."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high / low < 1e3 else (1,)
    values = [factor * 10.0**decade for decade in decades for factor in factors]
    return [value for value in values if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]


def tick_text(value: float) -> str:
    """``20k`` for 20,000; no trailing zeros."""
    if abs(value) < 1e-12:
        return "0"
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}".replace("-", "−")
    return f"{value:.4g}".replace("-", "−")


def _axes(frame: _Frame, x_label: str, y_label: str) -> list[Html]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value in ticks(frame.y_low, frame.y_high):
        y = frame.y(value)
        parts.append(element("line", x1=LEFT, x2=right, y1=y, y2=y, class_="rule"))
        parts.append(element("text", tick_text(value), x=LEFT - 7, y=y + 4, text_anchor="end"))
    for value in frame.x_ticks():
        parts.append(element("text", tick_text(value), x=frame.x(value), y=bottom + 17, text_anchor="middle"))
    parts.append(element("line", x1=LEFT, x2=right, y1=bottom, y2=bottom, class_="axis"))
    parts.append(
        element("text", x_label, x=(LEFT + right) / 2, y=HEIGHT - 6, text_anchor="middle", class_="label")
    )
    middle = (TOP + bottom) / 2
    turned = f"rotate(-90 12 {middle})"
    parts.append(
        element("text", y_label, x=12, y=middle, text_anchor="middle", transform=turned, class_="label")
    )
    return parts


def _marks(frame: _Frame, marks: Mapping[float, str]) -> list[Html]:
    parts = []
    for value, text in marks.items():
        x = frame.x(value)
        parts.append(element("line", x1=x, x2=x, y1=TOP, y2=HEIGHT - BOTTOM, class_="mark"))
        parts.append(element("text", text, x=x + 3, y=TOP - 3, class_="mark-label"))
    return parts


def _bands(frame: _Frame, series: Series) -> list[Html]:
    if series.low is None or series.high is None or len(series.x) < 2:
        return []
    bands = []
    for piece in series.pieces():
        x, low, high = series.x[piece], series.low[piece], series.high[piece]
        there = [_point(frame, *pair) for pair in zip(x, high)]
        back = [_point(frame, *pair) for pair in zip(x[::-1], low[::-1])]
        bands.append(element("path", d=f"M{' L'.join(there + back)} Z", class_=f"band c{series.colour}"))
    return bands


def _point(frame: _Frame, x: float, y: float) -> str:
    return f"{frame.x(x)},{frame.y(y)}"


def _line(frame: _Frame, series: Series) -> list[Html]:
    title = element("title", f"{series.name}: {series.y[-1]:.3g} at the end")
    curve = f"curve c{series.colour}"
    if series.is_level:
        y = frame.y(series.y[0])
        return [
            element(
                "line", title, x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_=f"curve level c{series.colour}"
            )
        ]
    lines = [
        element("polyline", title, points=" ".join(_point(frame, *pair) for pair in zip(x, y)), class_=curve)
        for x, y in ((series.x[piece], series.y[piece]) for piece in series.pieces())
    ]
    dot = element(
        "circle", cx=frame.x(series.x[-1]), cy=frame.y(series.y[-1]), r=3, class_=f"dot c{series.colour}"
    )
    return [*lines, dot]
