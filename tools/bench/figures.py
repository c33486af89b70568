"""What a run of the suite has found, as one JSON document: each figure with its unit and the rounds that it comes of.

A rate alone says little on a machine that others use too: the same code gave half of it an hour later. So what is
compared is measured in turns, and a figure keeps every round of every subject ("this" checkout, the "other" one,
"memcached"). Ratios are those of single rounds, whose two halves are seconds apart; what is shown is their median, and
their spread says how much of a difference is noise.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

FORMAT: Final = 1
THIS: Final = "this"  # the checkout that the suite belongs to
OTHER: Final = "other"  # the one that it is held against
MEMCACHED: Final = "memcached"
# Which ratios a figure has, where it has both subjects.
_RATIOS: Final = ((THIS, MEMCACHED), (OTHER, MEMCACHED), (THIS, OTHER))

MORE: Final = "more"  # is better
LESS: Final = "less"
NEITHER: Final = "neither"  # tells about the measurement


class BadResult(Exception):
    """A file that is not the result of a run, or not a whole one."""


class Spread(NamedTuple):
    """Rounds in three numbers."""

    low: float
    median: float
    high: float


def spread_of(rounds: Sequence[float]) -> Spread:
    return Spread(min(rounds), statistics.median(rounds), max(rounds))


class Figures:
    """Collects rounds; `document` is what has come together."""

    def __init__(self) -> None:
        self._figures: dict[str, dict[str, Any]] = {}
        self._troubles: dict[str, dict[str, dict[str, int]]] = {}

    def add(self, name: str, subject: str, value: float, unit: str, better: str) -> None:
        """One round more of a figure. `better`: MORE, LESS or NEITHER."""
        figure = self._figures.setdefault(name, {"unit": unit, "better": better, "rounds": {}})
        assert (figure["unit"], figure["better"]) == (unit, better), f"{name} is two things"
        figure["rounds"].setdefault(subject, []).append(value)

    def trouble(self, name: str, subject: str, counts: Mapping[str, int]) -> None:
        """What went wrong in the rounds of some figures; what is 0 is left out."""
        for what, count in counts.items():
            if count:
                found = self._troubles.setdefault(name, {}).setdefault(subject, {})
                found[what] = found.get(what, 0) + count

    def document(self, about: Mapping[str, Any]) -> dict[str, Any]:
        """All of it, fit for JSON; `about`: of what machine, versions and commits it is."""
        figures = {}
        for name, figure in self._figures.items():
            rounds = figure["rounds"]
            figures[name] = {
                **figure,
                "median": {subject: statistics.median(values) for subject, values in rounds.items()},
                "ratios": {
                    f"{one} / {other}": found for one, other in _RATIOS if (found := _ratios(rounds, one, other))
                },
            }
        return {"format": FORMAT, **about, "figures": figures, "troubles": self._troubles}


def _ratios(rounds: Mapping[str, Sequence[float]], one: str, other: str) -> list[float]:
    """Of each round the ratio; nothing where the two weren't measured in turns."""
    mine, others = rounds.get(one, ()), rounds.get(other, ())
    if len(mine) != len(others) or not all(others):
        return []
    return [first / second for first, second in zip(mine, others, strict=True)]


def _is_whole(document: dict[str, Any]) -> bool:
    """Whether everything is there that is read later. AttributeError, LookupError or TypeError: no."""
    return (
        document["format"] == FORMAT
        and document["machine"].keys() >= {"processor", "cores", "kernel", "load_before"}
        and document["versions"].keys() >= {"python", "gevent", "protobuf"}
        and document["subjects"][THIS].keys() >= {"commit", "clean", "compiled", "environment"}
        and all(document[what] for what in ("command", "date", "seconds", "extent"))
        and isinstance(document["parts"], list)
        and isinstance(document["troubles"], dict)
        and all(map(_is_whole_figure, document["figures"].values()))
    )


def _is_whole_figure(figure: dict[str, Any]) -> bool:
    all_rounds = (*figure["rounds"].values(), *figure["ratios"].values())
    return (
        figure["better"] in (MORE, LESS, NEITHER)
        and bool(figure["unit"])
        and figure["median"].keys() == figure["rounds"].keys()
        and all(rounds and all(isinstance(value, int | float) for value in rounds) for rounds in all_rounds)
    )


class Result:
    """A document, read back."""

    def __init__(self, document: dict[str, Any]) -> None:
        """BadResult for one that is not whole."""
        try:
            whole = _is_whole(document)
        except (AttributeError, LookupError, TypeError, ValueError):
            whole = False
        if not whole:
            raise BadResult("it is not a whole result of tools.bench.suite")
        self.document = document
        self.figures: dict[str, dict[str, Any]] = document["figures"]
        self.troubles: dict[str, dict[str, dict[str, int]]] = document["troubles"]

    def spread(self, name: str, subject: str = THIS) -> Spread | None:
        """Of a subject's rounds, or of the ratios "this / memcached"; None where there are none."""
        figure = self.figures.get(name)
        if figure is None:
            return None
        rounds = figure["ratios" if "/" in subject else "rounds"].get(subject)
        return spread_of(rounds) if rounds else None


def read(path: str) -> Result:
    """The result in a file. BadResult, with why, when there is none."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadResult(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        return Result(document)
    except BadResult as error:
        raise BadResult(f"{path}: {error}") from None
