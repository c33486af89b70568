"""Two results of the suite, figure by figure: python -m tools.bench.compare OLD.json NEW.json [--threshold PERCENT]

Prints both medians of each figure and their ratio, and marks as better or worse what is beyond noise: the rounds of the
two results do not overlap. Where memcached was measured in turns with the node, the node's ratio to memcached is
compared, which takes out how fast the machine was on either day. All other figures depend on that: read them with care,
or measure both checkouts in one run (`tools.bench.suite --against`).

Ends with 1 if something is worse beyond noise and by more than the threshold.
"""

if __name__ == "__main__":
    from tools.start import start

    start("tools.bench.compare", "tools.bench.compare")

from collections.abc import Sequence
from typing import Final, NamedTuple

from app.config.numbers import number
from tools import cli
from tools.bench.figures import MEMCACHED, MORE, NEITHER, THIS, BadResult, Result, Spread, read
from tools.bench.grid import grid

_PER_MEMCACHED: Final = f"{THIS} / {MEMCACHED}"
# What makes two runs different measurements.
_SAME: Final = ("machine.processor", "machine.cores", "machine.kernel", "versions", "extent", "subjects.this.compiled")


class Compared(NamedTuple):
    name: str
    unit: str
    old: Spread
    new: Spread
    change: float  # how much better (above 0) or worse the new median is, as a share
    is_beyond_noise: bool


def compared(old: Result, new: Result) -> list[Compared]:
    """All figures that both have and of which more or less is better."""
    found = []
    for name, figure in old.figures.items():
        if figure["better"] == NEITHER:
            continue
        for subject in (_PER_MEMCACHED, THIS):
            first, second = old.spread(name, subject), new.spread(name, subject)
            if first is None or second is None or not first.median:
                continue
            ratio = second.median / first.median
            change = ratio - 1 if figure["better"] == MORE else 1 - ratio
            apart = first.high < second.low or second.high < first.low
            unit = figure["unit"] if subject == THIS else "times memcached's"
            found.append(Compared(name, unit, first, second, change, apart))
            break
    return found


def differences(old: Result, new: Result) -> list[str]:
    """What was not the same in the two runs, besides the code."""
    found = []
    for path in _SAME:
        one, other = old.document, new.document
        for key in path.split("."):
            one, other = one.get(key, {}), other.get(key, {})
        if one != other:
            found.append(path)
    return found


def _rows(lines: Sequence[Compared]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for line in lines:
        mark = "" if not line.is_beyond_noise else "better" if line.change > 0 else "worse"
        ratio = line.new.median / line.old.median
        label = f"{line.name}, {line.unit}"
        rows.append((label, f"{line.old.median:,.4g}", f"{line.new.median:,.4g}", f"{ratio:.3f}", mark))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Compare and print."""
    parser = cli.Parser(prog="tools.bench.compare", description=__doc__)
    parser.add_argument("old", metavar="OLD.json")
    parser.add_argument("new", metavar="NEW.json")
    parser.add_argument(
        "--threshold",
        type=cli.argument(number(float, 0.0, 1e6, what="a number of percent", unit="")),
        default=10.0,
        metavar="PERCENT",
        help="how much worse a figure may be (default 10)",
    )
    given = parser.parse_args(argv)
    try:
        old, new = read(given.old), read(given.new)
    except BadResult as error:
        cli.complain(parser.prog, error)
        return cli.USAGE
    lines = compared(old, new)
    cli.say(*grid(("", "old", "new", "new / old", "beyond noise"), _rows(lines)))
    if unlike := differences(old, new):
        cli.say("", f"Not the same: {', '.join(unlike)}.")
    worse = [line for line in lines if line.is_beyond_noise and line.change < -given.threshold / 100]
    for line in worse:
        cli.complain(parser.prog, f"{line.name} is {-line.change:.0%} worse")
    return cli.FAILED if worse else cli.OK
