"""The page as it is sent: one document, nothing from elsewhere, and a policy that says so."""

import base64
import hashlib
import re

import pytest

from app.http.page import Page

PAGE = Page()
HTML = PAGE.html.decode()
POLICY = dict(PAGE.headers)["Content-Security-Policy"]
PAGE_MAX_BYTES = 64 * 1024  # what a phone on a bad line has in a second or two


def test_it_is_one_document_of_bounded_size() -> None:
    assert "/*STYLE*/" not in HTML
    assert "/*SCRIPT*/" not in HTML
    assert len(PAGE.html) < PAGE_MAX_BYTES


def test_nothing_comes_from_elsewhere() -> None:
    addresses = set(re.findall(r"(?:https?:)?//[^\s\"'`<>)]+", HTML))
    # The name of a language, not a place; and what a member's own page is linked by.
    assert {address for address in addresses if "." in address} == {
        "http://www.w3.org/2000/svg",
        r"http://${member.address.replace(/:\d+$/,",
    }
    assert not re.search(r"\b(src|srcset|@import|integrity)\s*=", HTML.replace("data:", ""))


def test_it_may_lie_below_any_path() -> None:
    """Behind a proxy: every address of the node's is relative to the page's."""
    addresses = re.findall(r"""(?:href=|fetch\()["']([^"']*)["']""", HTML)
    assert {"metrics", "slowlog", "ready", "status.json"} <= set(addresses)
    assert not [address for address in addresses if address.startswith(("/", "http"))]


@pytest.mark.parametrize("tag", ["style", "script"])
def test_the_policy_lets_exactly_what_is_there_run(tag: str) -> None:
    (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", HTML, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    assert f"{tag}-src 'sha256-{digest}'" in POLICY
    assert "unsafe" not in POLICY
    assert "default-src 'none'" in POLICY


def test_the_script_puts_nothing_into_the_page_as_markup() -> None:
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("):
        assert way not in HTML
    assert not re.search(r"\son[a-z]+=", HTML), "a handler in an attribute, which the policy forbids"
    assert not re.search(r"<[^>]+\sstyle=", HTML), "a style in an attribute, which the policy forbids"
