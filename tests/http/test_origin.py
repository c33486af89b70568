"""Which names are the node's, and which browser's request comes from another place."""

import pytest

from app.http.origin import ANY, Names, is_from_elsewhere

NAMES = Names(("kv1.example", "Machine"), ("Status.Example",))


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.0.0.1:9331", "10.1.2.3:80", "8.8.8.8", "[::1]", "[::1]:9331", "[fe80::1%eth0]:1"),
        *("localhost", "localhost:9331", "LOCALHOST", "localhost.", "a.localhost:1"),
        *("kv1.example", "KV1.Example:9331", "kv1.example.", "machine:9331", "status.example:443", "status.example:"),
    ],
)
def test_the_nodes_own_names_and_every_address(host: str) -> None:
    assert NAMES.include(host)


@pytest.mark.parametrize(
    "host",
    [
        *("", ":", ":9331", "evil.example", "evil.example:9331", "kv1.example.evil.example", "xkv1.example", "kv1"),
        *("localhost.evil.example", "notlocalhost", "127.0.0.1.evil.example", "127.1", "0x7f.0.0.1"),
        *(
            "2130706433",
            "::1",
            "[]",
            "[127.0.0.1]",
            "[evil.example]",
            "[::1",
            "[::1]x",
            "kv1.example:x",
            "kv1.example:1:2",
        ),
        *(
            "u@kv1.example",
            "kv1.example/",
            "kv1.example, evil.example",
            "kv1.example evil.example",
            "kv1.example..",
            "*",
        ),
    ],
)
def test_other_names(host: str) -> None:
    assert not NAMES.include(host)


@pytest.mark.parametrize("host", ["evil.example:9331", "", "127.0.0.1"])
def test_any_name_if_that_is_said(host: str) -> None:
    assert Names((), (ANY,)).include(host)


def fetch(site: str, mode: str = "cors", dest: str = "empty") -> dict[str, str]:
    return {"sec-fetch-site": site, "sec-fetch-mode": mode, "sec-fetch-dest": dest}


@pytest.mark.parametrize(
    ("headers", "elsewhere"),
    [
        ({}, False),  # no browser, or an old one
        (fetch("same-origin"), False),
        (fetch("none", "navigate", "document"), False),  # typed, or a bookmark
        (fetch("cross-site", "navigate", "document"), False),  # a link
        (fetch("same-site", "navigate", "document"), False),
        (fetch("cross-site"), True),
        (fetch("same-site"), True),  # another port of the same machine
        (fetch("cross-site", "no-cors", "script"), True),
        (fetch("cross-site", "no-cors", "image"), True),
        (fetch("cross-site", "navigate", "iframe"), True),
        (fetch("cross-site", "navigate", "object"), True),
        (fetch("same-origin, cross-site"), True),
        ({"sec-fetch-site": "cross-site"}, True),
    ],
)
def test_what_a_browser_asks_for_other_places(headers: dict[str, str], elsewhere: bool) -> None:
    assert is_from_elsewhere(headers) is elsewhere
