"""How every figure looks, and the three forms it leaves in: PNG and SVG on white, and SVG for a page, light or dark."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from functools import cache, wraps
from html import escape
from pathlib import Path
from typing import Any, ParamSpec
from weakref import WeakKeyDictionary

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from PIL.ImageFont import FreeTypeFont

from harness.contact_sheet import font, wrap

WIDTH = 6.5
"""Inches: the text width of a page. No text is smaller than ``TEXT`` points at this width."""
TEXT = 8
LINE = 1.25 * TEXT / 72
"""Inches from one line of text to the next."""

# What `inline` replaces by CSS variables, so that one figure is legible on light and dark paper.
INK, MUTED, RULE, PAPER = "#1a1a1a", "#666666", "#dcdcdc", "#ffffff"
FONT = "'DejaVu Sans', sans-serif"
VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--line", PAPER: "--paper"}
# Numbers on a coloured cell keep their colour on any paper, so these differ from the four above.
ON_DARK, ON_LIGHT = "#fdfdfd", "#0b0b0b"

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", INK)
"""Okabe and Ito, 2008: told apart by the colour-blind. Their yellow is left out, it cannot be seen on white."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DASHES = ("-", "--", ":")

HEATMAP = "viridis"
"""Perceptually uniform, and it rises in lightness: the better end is the lighter one."""

STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so a figure is the same on every machine
    "font.size": TEXT,
    "axes.titlesize": TEXT,
    "axes.titlelocation": "left",
    "axes.labelsize": TEXT,
    "legend.fontsize": TEXT,
    "xtick.labelsize": TEXT,
    "ytick.labelsize": TEXT,
    "text.color": INK,
    "text.parse_math": False,  # names are shown as they are: one with two dollars is no formula
    "axes.titlecolor": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": PAPER,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.borderaxespad": 0.2,
    "legend.handlelength": 2.4,
    "svg.fonttype": "none",  # letters stay letters: small, searchable, read aloud
    "svg.hashsalt": "dpsweep",  # the same figure gives the same bytes
}


Settings = ParamSpec("Settings")


def styled(draw: Callable[Settings, Figure]) -> Callable[Settings, Figure]:
    """Decorator of functions that draw: the style holds inside them and nowhere else."""

    @wraps(draw)
    def inside(*arguments: Settings.args, **options: Settings.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*arguments, **options)

    return inside


def panels(count: int, columns: int, height: float, width: float = WIDTH, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` panels of ``height`` inches in rows of at most ``columns``."""
    columns = max(1, min(columns, count))
    rows = max(1, math.ceil(count / columns))
    figure = Figure(figsize=(width, rows * height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06)  # type: ignore[call-arg, union-attr]
    axes = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]


def look(number: int) -> dict[str, Any]:
    """Colour, marker and dash of the ``number``-th series: no two of the first 63 agree in both colour and marker."""
    turn = number // len(COLOURS)
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[(number + turn) % len(MARKERS)],
        "linestyle": DASHES[turn % len(DASHES)],
    }


def caption(figure: Figure, *sentences: str) -> None:
    """What the marks mean, in small words under the plot; the figure grows by the lines that it takes."""
    width, height = figure.get_size_inches()
    text = wrapped(" ".join(sentence for sentence in sentences if sentence), width - 0.25)
    figure.set_size_inches(width, height + (text.count("\n") + 1) * LINE)
    figure.supxlabel(text, x=0.06 / width, ha="left", fontsize=TEXT, color=MUTED)


def legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str], title: str | None = None) -> None:
    """A legend above the plot in as many columns as fit; the figure grows by the lines that it takes."""
    width, height = figure.get_size_inches()
    labels = [wrapped(label, width - 0.8) for label in labels]
    longest = max(text_width(line) for label in labels for line in label.splitlines() or [""])
    columns = max(1, min(len(labels), int((width - 0.1) / (longest + 0.52))))
    per_column = math.ceil(len(labels) / columns)
    lines = max(sum(label.count("\n") + 1 for label in labels[n : n + per_column]) for n in range(0, len(labels), per_column))
    figure.set_size_inches(width, height + (lines + (title is not None) + 0.5) * LINE)
    figure.legend(
        handles, labels, loc="outside upper left", ncols=columns, title=title, alignment="left", columnspacing=1.2,
        title_fontsize=TEXT,
    )  # fmt: skip


@cache
def _ruler() -> FreeTypeFont:
    return font("DejaVuSans.ttf", 10 * TEXT)


def text_width(text: str) -> float:
    """Inches that a line of the figures' text takes."""
    return _ruler().getlength(text) / 720


def wrapped(text: str, inches: float) -> str:
    """``text`` in lines that fit ``inches``."""
    return "\n".join(wrap(text, _ruler(), 720 * inches))


def shortened(labels: Sequence[str]) -> list[str]:
    """The labels without the words that all of them share; as they are where that would leave one empty.

    >>> shortened(["paper noise=0 steps=20", "paper noise=1 steps=20"])
    ['noise=0', 'noise=1']
    """
    words = [label.split() for label in labels]
    shared = set(words[0]).intersection(*words[1:]) if len(words) > 1 else set()
    kept = [" ".join(word for word in label if word not in shared) for label in words]
    return kept if all(kept) else list(labels)


def needs_logarithm(values: Sequence[float]) -> bool:
    """Whether an axis of these values is read better in logarithms: all above 0, the largest over 30 times the least."""
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and min(finite) > 0 and max(finite) > 30 * min(finite)


def logarithmic(axes: Axes, which: str) -> None:
    """A logarithmic axis whose ticks read 0.1, 1, 10, and what lies between them where it shows less than two decades."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    low, high = axis.get_view_interval()
    decades = math.log10(high / low)
    between = range(1, 10) if decades < 0.8 else (1, 2, 5) if decades < 2 else (1,)
    axis.set_major_locator(LogLocator(10, subs=between))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def save(figure: Figure, folder: str | Path, name: str) -> list[Path]:
    """Write ``figure`` as ``folder/name.png`` (150 dots an inch) and ``folder/name.svg``, both on white; return the paths.

    A figure that was saved or inlined is finished: what is drawn on it later does not show.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    text = _svg(figure)
    figure.dpi = 150
    with matplotlib.rc_context(STYLE):
        FigureCanvasAgg(figure).print_png(png, metadata={"Software": None}, pil_kwargs={"compress_level": 3})
    start = text.index(">", text.index("<svg")) + 1
    svg.write_text(f'{text[:start]}\n <rect width="100%" height="100%" fill="{PAPER}"/>{text[start:]}', encoding="utf-8")
    return [png, svg]


def inline(figure: Figure, name: str, title: str, description: str = "") -> str:
    """``figure`` as an SVG element for a page.

    Its ids begin with ``name``, so that figures of several names can stand in one page. The background is transparent; ink,
    muted ink, lines and paper are the CSS variables ``--ink``, ``--muted``, ``--line`` and ``--paper`` where the page sets
    them. Screen readers read ``title`` and ``description``. The same figure gives the same text.
    """
    text = _svg(figure)
    text = text[text.index("<svg") :]
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{name}-", text)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)  # its selector `*` would reach the page
    text = text.replace(FONT, "system-ui, sans-serif")
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable}, {colour})")
    words, labelled = f'<title id="{name}-title">{escape(title)}</title>', f"{name}-title"
    if description:
        words += f'<desc id="{name}-description">{escape(description)}</desc>'
        labelled += f" {name}-description"
    head, rest = text.split(">", 1)
    return f'{head} style="stroke-linejoin: round" role="img" aria-labelledby="{labelled}">{words}{rest}'


_finished: WeakKeyDictionary[Figure, str] = WeakKeyDictionary()


def _svg(figure: Figure) -> str:
    """The figure as an SVG document without a background: laid out and drawn once, however often it is asked for."""
    if figure not in _finished:
        out = io.StringIO()
        with matplotlib.rc_context(STYLE):
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
            figure.patch.set_visible(False)
            FigureCanvasSVG(figure).print_svg(out, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
            figure.patch.set_visible(True)
        text = re.sub(r"<!--.*?-->\s*", "", out.getvalue(), flags=re.DOTALL).replace("'DejaVu Sans'", FONT)
        # A hundredth of a point cannot be seen; matplotlib writes millionths.
        _finished[figure] = re.sub(r' (?:d|x|y|transform)="[^"]*"', lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]), text)
    return _finished[figure]
