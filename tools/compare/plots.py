"""Plots results as SVG: seconds by stage compared with diffusers, and seconds by the size of a picture."""

import json
import math
import sys
from html import escape
from pathlib import Path

import report
from environment import spread

STAGE_NAMES = {"text": "text", "stage_c": "Stage C", "stage_b": "Stage B", "stage_a": "Stage A"}
# The palette of Okabe and Ito, whose colours can be told apart by colour-blind readers, on white and on black.
COLOURS = {"text": "#cc79a7", "stage_c": "#0072b2", "stage_b": "#e69f00", "stage_a": "#009e73"}
# The plots have their own background, because that of the page is unknown.
STYLE = """text { font: 13px sans-serif; fill: #1f2328 } .back { fill: #ffffff } .line { stroke: #c8ccd0 } .title { font-weight: bold }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .back { fill: #0d1117 } .line { stroke: #3d444d } }"""


class Svg:
    def __init__(self, width: int, height: int):
        self.parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
                      f'viewBox="0 0 {width} {height}">', f"<style>{STYLE}</style>",
                      f'<rect class="back" width="{width}" height="{height}" rx="6"/>']

    def text(self, x: float, y: float, words: str, anchor: str = "start", kind: str = "") -> None:
        named = f' class="{kind}"' if kind else ""
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{named}>{escape(words)}</text>')

    def rect(self, x: float, y: float, width: float, height: float, colour: str, title: str) -> None:
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}">'
                          f"<title>{escape(title)}</title></rect>")

    def line(self, x1: float, y1: float, x2: float, y2: float) -> None:
        self.parts.append(f'<line class="line" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def curve(self, points: list[tuple[float, float]], colour: str, dots: bool = True) -> None:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        self.parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in points if dots]

    def save(self, file: Path) -> None:
        file.write_text("\n".join([*self.parts, "</svg>\n"]))
        print(file)


def latency(records: list[dict]) -> Svg:
    """One bar for each program and dtype, stacked from the medians of its stages. Each model has its own scale."""
    cells = report.cells(records)
    left, width, bar = 190, 760, 20
    rows = sum(len(programs) for programs in cells.values())
    svg = Svg(width, 74 + (bar + 6) * rows + 34 * len(cells))
    longest = {}
    for (model, *_), programs in cells.items():
        sums = [sum(median(taken, stage) for stage in report.STAGES) for taken in programs.values()]
        longest[model] = max(sums + [longest.get(model, 0)])
    for i, (stage, colour) in enumerate(COLOURS.items()):
        svg.rect(left + 110 * i, 16, 14, 14, colour, STAGE_NAMES[stage])
        svg.text(left + 110 * i + 20, 28, STAGE_NAMES[stage])
    y = 44
    for (model, device, w, h, dtype), programs in cells.items():
        svg.text(16, y + 17, f"{model}, {w}×{h} px, {dtype}, {device}", kind="title")
        y += 28
        scale = (width - left - 70) / longest[model]
        for name, taken in programs.items():
            svg.text(left - 10, y + 15, name, "end")
            x = float(left)
            for stage, colour in COLOURS.items():
                seconds = median(taken, stage)
                svg.rect(x, y, seconds * scale, bar, colour, f"{name}, {STAGE_NAMES[stage]}: {seconds:.2f} s")
                x += seconds * scale
            svg.text(x + 8, y + 15, f"{(x - left) / scale:.2f} s")
            y += bar + 6
        y += 6
    first = records[0]
    svg.text(16, y + 18, f"Seconds per picture after warm-up, medians by stage. {label(first)}")
    return svg


def median(records: list[dict], stage: str) -> float:
    return spread(report.seconds(records, stage))[0]


def label(record: dict) -> str:
    return f"{record['machine']}, {record['threads']} threads, {record['date']}; {' + '.join(map(str, record['steps']))} steps."


def area(benches: list[dict]) -> Svg:
    """Seconds against megapixels on logarithmic axes, for every stage and for the whole picture."""
    width, height, left, bottom, top, right = 760, 420, 64, 48, 40, 150
    bench = benches[0]
    cells = sorted((cell["width"] * cell["height"] / 1e6, cell) for cell in bench["results"] if cell["count"] == 1)
    curves = {stage: [cell["seconds"][stage]["min"] for _, cell in cells] for stage in COLOURS}
    curves["picture"] = [cell["seconds"]["picture"]["min"] for _, cell in cells]
    sizes = [size for size, _ in cells]
    low, high = (f(v for c in curves.values() for v in c) for f in (min, max))
    svg = Svg(width, height)

    def x(size: float) -> float:
        return left + (width - left - right) * math.log(size / sizes[0]) / math.log(sizes[-1] / sizes[0])

    def y(seconds: float) -> float:
        return height - bottom - (height - bottom - top) * math.log(seconds / low) / math.log(high / low)

    for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        for digit in (1, 2, 5):
            seconds = digit * 10.0**power
            if low <= seconds <= high:
                svg.line(left, y(seconds), width - right, y(seconds))
                svg.text(left - 8, y(seconds) + 4, f"{seconds:g} s", "end")
    for size, cell in cells:
        svg.line(x(size), top, x(size), height - bottom)
        svg.text(x(size), height - bottom + 18, f"{cell['width']}×{cell['height']}", "middle")
    colours = COLOURS | {"picture": "#999999"}
    # Labels at the ends of the curves, moved apart where they would overlap.
    ends, free = sorted((y(values[-1]), name) for name, values in curves.items()), 0.0
    for name, values in curves.items():
        svg.curve([(x(size), y(seconds)) for size, seconds in zip(sizes, values)], colours[name])
    for at, name in ends:
        free = max(at, free)
        svg.curve([(width - right, at), (width - right + 10, free)], colours[name], dots=False)
        svg.text(width - right + 12, free + 4, f"{STAGE_NAMES.get(name, 'whole picture')}, {curves[name][-1]:.3g} s")
        free += 16
    svg.text(16, 22, f"Seconds by size, both axes logarithmic: {bench['model']} on {bench['device']}", kind="title")
    steps = " + ".join(map(str, cells[0][1]["steps"]))
    svg.text(16, height - 8, f"cascade-rt bench, {steps} steps, minimum of {bench['runs']} runs.")
    return svg


def run(options) -> int:
    records, benches = [], []
    for file in options.results:
        for line in filter(str.strip, file.read_text().splitlines()):
            value = json.loads(line)
            (benches if "results" in value else records).append(value)
    records = [record for record in records if "seconds" in record]
    if not records and not benches:
        sys.exit("these files contain neither results of `pictures` nor of `cascade-rt bench --json`")
    options.out.mkdir(parents=True, exist_ok=True)
    if records:
        latency(records).save(options.out / "latency.svg")
    if benches:
        area(benches).save(options.out / "area.svg")
    return 0
