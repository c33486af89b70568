"""A result as one HTML page that needs nothing else: the plots are SVG inside it, drawn by matplotlib.

matplotlib is imported only when a report is wanted: it takes half a second and is no part of what a node needs.
"""

import html
import io
import re
from collections.abc import Sequence
from typing import Any, Final

from tools.load.results import PERCENTILES, TROUBLE, counts_line, errors_of, generator_line, title_of

# Errors over time: what is drawn even when it is always 0 (the others only if they happened).
ALWAYS_DRAWN: Final = ("failed", "timeouts")
MAY_BE_DRAWN: Final = ("wrong", "stale", "missing", "retries", "overloads")

_STYLE: Final = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #8884 }
th:first-child, td:first-child, .words td { text-align: left }
figure { margin: 1.5rem 0; background: #fff; color: #000; padding: .5rem; border-radius: .5rem; overflow-x: auto }
figcaption { font-weight: 600 }
svg { width: 100%; height: auto; min-width: 30rem }
.bad { color: #c22; font-weight: 600 }
.scroll { overflow-x: auto }
.words td { overflow-wrap: anywhere; vertical-align: top }
.words td:first-child { overflow-wrap: normal }
@media (prefers-color-scheme: dark) {
  figure { background: #111; color: #eee }
  svg { filter: invert(1) hue-rotate(180deg) }
  .bad { color: #f77 }
}
@media (max-width: 40rem) { body { margin: 1rem auto } th, td { padding: .2rem .4rem } }
"""


def page_of(result: dict[str, Any]) -> str:
    """The whole page. ImportError when matplotlib is not there."""
    bad = result["reads"]["wrong"] + result["reads"]["stale"]
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8"><title>Load test</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{_STYLE}</style></head><body>",
        "<h1>Load test</h1>",
        f"<p>{html.escape(title_of(result))}</p>",
        f"<p><strong>{result['ops_per_s']:,} operations a second</strong>, "
        f"{errors_of(result):,} errors, {result['reads']['missing']:,} keys missing.</p>",
    ]
    if bad:
        samples = "<br>".join(html.escape(sample) for sample in result["samples"])
        parts.append(f'<p class="bad">{bad:,} wrong or stale values were read.<br>{samples}</p>')
    if result["rate_missed"]:
        parts.append(
            f'<p class="bad">The rate was missed: {result["rate"]:,g} operations a second were wanted. '
            "What is measured is an overload.</p>"
        )
    parts.append(_latency_table(result))
    parts += [_figure(number, *plot) for number, plot in enumerate(_plots(result))]
    parts += [_counts_table(result), "</body></html>"]
    return "\n".join(parts)


def _row(cells: Sequence[object], kind: str = "td") -> str:
    return "<tr>" + "".join(f"<{kind}>{html.escape(str(cell))}</{kind}>" for cell in cells) + "</tr>"


def _latency_table(result: dict[str, Any]) -> str:
    columns = (*PERCENTILES, "max")
    rows = dict(result["latency"])
    if "sent_late" in result:
        rows["sent late by the generator"] = result["sent_late"]
    lines = [_row(("latency, ms", "count", *columns), "th")]
    lines += [
        _row((name, f"{row['count']:,}", *(f"{row[f'{column}_ms']:.3f}" for column in columns)))
        for name, row in rows.items()
    ]
    return '<div class="scroll"><table>' + "".join(lines) + "</table></div>"


def _counts_table(result: dict[str, Any]) -> str:
    rows = {
        "reads": counts_line(result["reads"]),
        "answers": counts_line(result["codes"]),
        "trouble": counts_line({name: result[name] for name in TROUBLE}),
        "generator": generator_line(result["generator"]),
        "ignored": counts_line(result["ignored"]),
        "faults played": counts_line(result["faults"]),
        "servers": ", ".join(result["servers"]),
        "date": result.get("date", ""),
        "command": result.get("command", ""),
        "versions": result.get("versions", ""),
    }
    return '<table class="words">' + "".join(_row(row) for row in rows.items()) + "</table>"


# One plot: its caption, and what is drawn: label, x, y.
_Plot = tuple[str, str, str, list[tuple[str, list[float], list[float]]], str]


def _plots(result: dict[str, Any]) -> list[_Plot]:
    """(caption, name of x, name of y, lines, scale of x)"""
    series = result["series"]
    seconds = series["second"]
    errors = [name for name in (*ALWAYS_DRAWN, *MAY_BE_DRAWN) if name in ALWAYS_DRAWN or any(series[f"{name}_per_s"])]
    curve = result["curve"]
    shares = [100 / max(100 - percentile, 1e-9) for percentile in curve["percentile"]]
    return [
        ("Rate", "seconds", "operations/s", [("operations/s", seconds, series["ops_per_s"])], "linear"),
        (
            "Latency over time",
            "seconds",
            "ms",
            [(name, seconds, series[f"{name}_ms"]) for name in (*PERCENTILES, "max")],
            "log y",
        ),
        ("Latency by percentile", "percentile", "ms", [("all operations", shares, curve["ms"])], "percentiles"),
        (
            "Errors and retries",
            "seconds",
            "per second",
            [(name, seconds, series[f"{name}_per_s"]) for name in errors],
            "linear",
        ),
    ]


def _figure(number: int, caption: str, x_name: str, y_name: str, lines: list[Any], scale: str) -> str:
    # The object interface: pyplot would look for a display, and keep every figure.
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": caption, "font.size": 10}):
        figure = Figure(figsize=(9, 3.2), layout="constrained")
        axes = figure.subplots()
        for label, x, y in lines:
            axes.plot(x, y, label=label, marker="." if len(x) < 50 else None, linewidth=1.5)
        if x_name == "seconds":
            axes.set_xlim(left=0)
        if scale == "log y" and any(value > 0 for _, _, y in lines for value in y):
            axes.set_yscale("log")
        elif scale == "percentiles":
            # As many nines as there are: 0 % at 1, 90 % at 10, 99 % at 100.
            axes.set_xscale("log")
            ticks = {1: "0", 2: "50", 10: "90", 100: "99", 1000: "99.9", 10_000: "99.99", 100_000: "99.999"}
            axes.set_xticks(list(ticks), list(ticks.values()), minor=False)
            axes.minorticks_off()
        else:
            axes.set_ylim(0, 1.1 * max((value for _, _, y in lines for value in y), default=0) or 1)
        axes.set_xlabel(x_name)
        axes.set_ylabel(y_name)
        axes.grid(alpha=0.3)
        # Above: on a telephone what is at the right is out of sight.
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(lines), frameon=False)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg")
    return f"<figure><figcaption>{html.escape(caption)}</figcaption>{_inline(drawn.getvalue(), number)}</figure>"


def _inline(svg: str, number: int) -> str:
    """The drawing without what only a file of its own needs (all addresses are in that), and with ids of its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'\bid="', f'id="plot{number}-', svg)
    svg = re.sub(r'href="#', f'href="#plot{number}-', svg)
    return svg.replace("url(#", f"url(#plot{number}-")
