"""The page with plots."""

import re
from html.parser import HTMLParser

from tests.tools.load.test_results import result
from tools.load.report import page_of

VOID = {"meta", "br"}


class Balanced(HTMLParser):
    """Fails on tags that are not closed in order; gathers ids and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.count: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def parsed(page: str) -> Balanced:
    parser = Balanced()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def test_a_plot_for_every_series_and_nothing_from_outside() -> None:
    made = result(1, 2, rate=40.0)
    made["series"]["stale_per_s"] = [0.0, 1.0]
    page = page_of(made)
    assert "http" not in page
    assert "//" not in re.sub(r"/\*.*?\*/", "", page)
    assert not re.search(r"<(script|link|img|iframe|object)\b|@import|url\((?!#)", page)
    parser = parsed(page)
    assert parser.count["svg"] == parser.count["figure"] == 4
    assert len(parser.ids) == len(set(parser.ids))
    for label in ("operations/s", "p50", "p90", "p99", "p99.9", "max", "all operations", "failed", "timeouts"):
        assert label in parser.texts, label
    assert "retries" in parser.texts
    assert "stale" in parser.texts
    assert "overloads" not in parser.texts  # there were none
    assert "sent late by the generator" in parser.texts
    for reference in re.findall(r'(?:href="|url\()#([^")]+)', page):
        assert reference in parser.ids


def test_a_run_without_anything_to_draw_has_a_page_too() -> None:
    made = result(1)
    made["series"] = {name: [] for name in made["series"]}
    made["curve"]["ms"] = [0.0] * len(made["curve"]["ms"])
    assert parsed(page_of(made)).count["svg"] == 4


def test_wrong_values_stand_out_and_text_is_escaped() -> None:
    made = result(1)
    made["reads"]["wrong"] = 2
    made["samples"] = ["wrong: <key> & value"]
    page = page_of(made)
    assert "2 wrong or stale values were read" in page
    assert "&lt;key&gt; &amp; value" in page
