#!/usr/bin/env python3
"""Draws the loss curves of a demo run as an SVG picture, for the README: one thin line per node, and, where given, the
curve of a single process with the same global batch.

Usage: tools/plot_loss.py DEMO.json [--single NODE.json] [--output docs/loss.svg]

DEMO.json comes from `tools/demo --json DEMO.json`, NODE.json from `papilio-node --json NODE.json`."""

import argparse
import json
import math
import pathlib
import sys
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 56, 20, 44, 48
COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5")


def nice_step(span: float, most: int) -> float:
    """The least of 1, 2, 5 times a power of ten that cuts `span` into at most `most` pieces."""
    power = 10 ** math.floor(math.log10(span / most))
    return next(factor * power for factor in (1, 2, 5, 10) if span / (factor * power) <= most)


def ticks(low: float, high: float, most: int) -> list[float]:
    step = nice_step(high - low, most)
    return [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


class Picture:
    def __init__(self, steps: int, low: float, high: float):
        self.steps, self.low, self.high = steps, low, high
        self.parts: list[str] = []

    def x(self, step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (step - 1) / max(1, self.steps - 1)

    def y(self, loss: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (self.high - loss) / (self.high - self.low)

    def add(self, part: str) -> None:
        self.parts.append(part)

    def text(self, x: float, y: float, text: str, anchor: str = "middle", style: str = "") -> None:
        self.add(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(text)}</text>')

    def axes(self) -> None:
        for loss in ticks(self.low, self.high, 6):
            y = self.y(loss)
            self.add(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e4e4e4"/>')
            self.text(LEFT - 8, y + 4, f"{loss:g}", "end")
        whole = [tick for tick in ticks(1, max(9, self.steps), 8) if 1 < tick <= self.steps]
        for step in [1, *whole]:
            self.text(self.x(step), HEIGHT - BOTTOM + 18, f"{step:g}")
        self.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, "round")
        self.text(16, (TOP + HEIGHT - BOTTOM) / 2, "loss (nats per character)",
                  style=f' transform="rotate(-90 16 {(TOP + HEIGHT - BOTTOM) / 2:.0f})"')

    def curve(self, losses: list[float | None], colour: str, width: float, dash: str = "") -> None:
        points = " ".join(f"{self.x(step):.1f},{self.y(loss):.1f}" for step, loss in enumerate(losses, start=1)
                          if loss is not None and math.isfinite(loss))
        self.add(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}" '
                 f'stroke-linejoin="round"{dash}/>')

    def legend(self, entries: list[tuple[str, str, str]]) -> None:
        y = TOP + 8
        for name, colour, dash in entries:
            x = WIDTH - RIGHT - 150
            self.add(f'<line x1="{x}" x2="{x + 26}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2"{dash}/>')
            self.text(x + 34, y + 4, name, "start")
            y += 18

    def document(self, title: str) -> str:
        body = "\n".join(self.parts)
        return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
                f'height="{HEIGHT}" font-family="sans-serif" font-size="12" fill="#444" role="img">\n'
                f'<title>{escape(title)}</title>\n<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>\n'
                f'<text x="{LEFT}" y="24" font-size="15" fill="#111">{escape(title)}</text>\n{body}\n</svg>\n')


def draw(demo: dict, single: dict | None) -> str:
    curves = [(entry["node"], entry["losses"]) for entry in demo["losses"] if entry["losses"]]
    alone = single["losses"] if single else []
    values = [loss for _, losses in curves for loss in losses] + alone
    values = [loss for loss in values if loss is not None and math.isfinite(loss)]
    if not values:
        raise ValueError("there is no loss in it; run tools/demo with more --steps")
    low, high = min(values), max(values)
    margin = 0.04 * (high - low) or 0.5
    picture = Picture(max(len(losses) for losses in [*(losses for _, losses in curves), alone]), low - margin,
                      high + margin)
    picture.axes()
    entries = []
    for node, losses in curves:
        colour = COLOURS[node % len(COLOURS)]
        picture.curve(losses, colour, 1.4)
        entries.append((f"node {node}", colour, ""))
    if alone:
        dash = ' stroke-dasharray="5 3"'
        picture.curve(alone, "#111", 1.6, dash)
        entries.append(("a single process", "#111", dash))
    picture.legend(entries[:12])
    return picture.document(f"{demo['nodes']} nodes, one model: {demo['parameters']:,} parameters")


def read(path: str) -> dict:
    try:
        return json.loads(pathlib.Path(path).read_text())
    except (OSError, ValueError) as error:
        print(f"tools/plot_loss.py: '{path}' cannot be read as JSON ({error})", file=sys.stderr)
        sys.exit(2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", metavar="DEMO.json")
    parser.add_argument("--single", metavar="NODE.json")
    parser.add_argument("--output", default="docs/loss.svg")
    arguments = parser.parse_args()
    try:
        picture = draw(read(arguments.demo), read(arguments.single) if arguments.single else None)
        output = pathlib.Path(arguments.output)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(picture)
    except (KeyError, ValueError) as error:
        print(f"tools/plot_loss.py: '{arguments.demo}' is not a demo's result: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"tools/plot_loss.py: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
