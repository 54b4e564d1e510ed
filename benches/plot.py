"""Line plots as SVG, without any library: a median with a band for the range, one colour a line.

The y axis begins at 0, so that a line that looks flat is flat. The colours follow the reader's scheme (light or dark), the
background with them: a plot is legible on any page. Nothing here measures or judges.
"""

import dataclasses
import math
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 92, 56
NAMES_IN_A_ROW = 2
# After the Okabe-Ito palette: told apart by those who see fewer colours; each is legible on both backgrounds.
COLOURS = ["#1f83c6", "#d55e00", "#009e73", "#cc79a7"]
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328; }
  .title { font-size: 15px; font-weight: 600; }
  .ground { fill: #ffffff; }
  .grid { stroke: #d1d9e0; stroke-width: 1; }
  .axis { stroke: #59636e; stroke-width: 1; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; }
    .ground { fill: #0d1117; }
    .grid { stroke: #3d444d; }
    .axis { stroke: #9198a1; }
  }
"""


@dataclasses.dataclass(frozen=True)
class Line:
    """One line: points of (x, lowest, median, highest), x ascending."""

    name: str
    points: list
    colour: int
    dashed: bool = False


def svg(title, x_label, y_label, lines, *, log_x):
    """The whole file. Ticks of x are what was measured, those of y are round."""
    xs = sorted({point[0] for line in lines for point in line.points})
    steps = round_steps(max(point[3] for line in lines for point in line.points))

    def x_of(value):
        scale = math.log if log_x else float
        low, high = scale(xs[0]), scale(xs[-1])
        share = 0.5 if high == low else (scale(value) - low) / (high - low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y_of(value):
        return HEIGHT - BOTTOM - value / steps[-1] * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="ground" width="{WIDTH}" height="{HEIGHT}" rx="6"/>',
        text(LEFT, 26, title, "start", ' class="title"'),
        *legend(lines),
        *axes(xs, steps, x_of, y_of),
        text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, x_label, "middle"),
        text(18, (TOP + HEIGHT - BOTTOM) / 2, y_label, "middle", f' transform="rotate(-90 18 {(TOP + HEIGHT - BOTTOM) / 2:.1f})"'),
    ]
    for line in lines:
        parts += drawn(line, x_of, y_of)
    return "\n".join([*parts, "</svg>", ""])


def round_steps(highest):
    """From 0 to at least `highest` in four to eight steps of 1, 2 or 5 times a power of ten."""
    power = 10 ** math.floor(math.log10(max(highest, 1e-9) / 4))
    step = next(power * factor for factor in (1, 2, 5, 10) if highest / (power * factor) <= 8)
    return [step * number for number in range(math.ceil(highest / step) + 1)]


def axes(xs, steps, x_of, y_of):
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for value in steps:
        y = y_of(value)
        kind = "grid" if value else "axis"
        yield f'<line class="{kind}" x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>'
        yield text(LEFT - 8, y + 4, f"{value:,g}", "end")
    for value in xs:
        x = x_of(value)
        yield f'<line class="axis" x1="{x:.1f}" y1="{bottom}" x2="{x:.1f}" y2="{bottom + 5}"/>'
        # The last one would stick out on the right.
        yield text(x, bottom + 20, f"{value:,}", "end" if value == xs[-1] and x > right - 20 else "middle")


def legend(lines):
    for index, line in enumerate(lines):
        row, column = divmod(index, NAMES_IN_A_ROW)
        x, y = LEFT + column * (WIDTH - LEFT - RIGHT) / NAMES_IN_A_ROW, 50 + 20 * row
        yield f'<line x1="{x:.1f}" y1="{y - 4}" x2="{x + 26:.1f}" y2="{y - 4}" {stroke(line)}/>'
        yield text(x + 34, y, line.name, "start")


def drawn(line, x_of, y_of):
    """The band first, the line above it."""
    def path(values):
        return " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in values)

    above = [(x, high) for x, _, _, high in line.points]
    below = [(x, low) for x, low, _, _ in reversed(line.points)]
    colour = COLOURS[line.colour % len(COLOURS)]
    yield f'<polygon points="{path(above + below)}" fill="{colour}" fill-opacity="0.2"/>'
    yield f'<polyline points="{path([(x, middle) for x, _, middle, _ in line.points])}" fill="none" {stroke(line)}/>'
    for x, low, middle, high in line.points:
        yield (
            f'<circle cx="{x_of(x):.1f}" cy="{y_of(middle):.1f}" r="3.5" fill="{colour}">'
            f"<title>{escape(line.name)}, {x:,}: {middle:.1f} [{low:.1f}-{high:.1f}]</title></circle>"
        )


def stroke(line):
    dashes = ' stroke-dasharray="6 4"' if line.dashed else ""
    return f'stroke="{COLOURS[line.colour % len(COLOURS)]}" stroke-width="2"{dashes}'


def text(x, y, words, anchor, more=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(words)}</text>'
