"""Tables in Markdown. Apart from tables.py, which needs the compiled load generator: a comparison needs nothing."""

from collections.abc import Sequence


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown, its columns aligned: the first to the left, figures to the right."""
    cells = [list(head), *map(list, rows)]
    widths = [max(len(row[n]) for row in cells) for n in range(len(head))]
    lines = [
        "| "
        + " | ".join(
            cell.rjust(width) if n else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in cells
    ]
    rule = ["-" * (width + 1) + (":" if n else "-") for n, width in enumerate(widths)]
    return [lines[0], "|" + "|".join(rule) + "|", *lines[1:]]
