"""A result of the suite as one drawing (SVG) for the documents. matplotlib is imported only when it is wanted."""

import io
import re
from typing import TYPE_CHECKING, Any, Final

from tools.bench import parts
from tools.bench.figures import MEMCACHED, THIS, Result, Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NODE: Final = "#1f6fb4"
_PALE: Final = "#9dbfdc"
_GREY: Final = "#777777"


def drawing_of(result: Result) -> str:
    """Three plots side by side: the node's share of memcached's rate, what a request costs as a cluster grows, what is
    held in a first fill and after others. ImportError when matplotlib is not there."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bench", "font.size": 9}):
        figure = Figure(figsize=(10, 3), layout="constrained")
        share, growth, memory = figure.subplots(1, 3)
        _draw_share(share, result)
        _draw_growth(growth, result)
        _draw_memory(memory, result)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    return re.sub(r"[ \t]+$", "", drawn.getvalue(), flags=re.MULTILINE)


def _bars(axes: "Axes", labels: list[str], spreads: list[Spread | None], **style: Any) -> None:
    for place, spread in enumerate(spreads):
        if spread is not None:
            reach = [[spread.median - spread.low], [spread.high - spread.median]]
            axes.bar(place, spread.median, yerr=reach, color=_NODE, ecolor=_GREY, capsize=3, width=0.6, **style)
    axes.set_xticks(range(len(labels)), labels)


def _draw_share(axes: "Axes", result: Result) -> None:
    loads = [(64, clients) for clients in parts.CLIENTS] + [(parts.LARGE_BYTES, parts.LARGE_CLIENTS)]
    labels = [f"{clients}" if size == 64 else f"{clients}\n{size:,} B" for size, clients in loads]
    names = [f"{parts.one_node_name(size, clients)}/{parts.RATE}" for size, clients in loads]
    _bars(axes, labels, [result.spread(name, f"{THIS} / {MEMCACHED}") for name in names])
    axes.axhline(1.0, color=_GREY, linewidth=1, linestyle="--")
    axes.set_title("One node's rate / memcached's")
    axes.set_xlabel("clients")


def _draw_growth(axes: "Axes", result: Result) -> None:
    for copies, colour in ((1, _PALE), (3, _NODE)):
        points = [
            (count, spread.median)
            for count in parts.FULL.growth
            if (spread := result.spread(f"{parts.cluster_name(count, copies)}/{parts.PROCESSOR}")) is not None
        ]
        label = "one copy" if copies == 1 else "three copies"
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", color=colour, label=label)
    axes.set_xticks(parts.FULL.growth)
    axes.set_ylim(bottom=0)
    axes.set_title("Processor time a request, µs, all nodes")
    axes.set_xlabel("nodes")
    axes.legend(frameon=False)


def _draw_memory(axes: "Axes", result: Result) -> None:
    befores = [before for before in dict.fromkeys(parts.CHURN) if before != "64"]
    names = [f"{parts.memory_name('64')}/after {parts.in_words(before)}" for before in befores]
    spreads = [Spread(1.0, 1.0, 1.0), *(result.spread(name) for name in names)]
    _bars(axes, ["first", *(f"after\n{parts.in_words(before)}" for before in befores)], spreads)
    first = result.spread(f"{parts.memory_name('64')}/first fill")
    held = "" if first is None else f", first {first.median:,.0f}"
    axes.set_title(f"Entries of 64 B{held}")
    axes.set_ylim(0, 1.1)
