"""Heads of requests: each is read alike in whatever pieces it comes, and what RFC 9112 forbids is refused."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.http.head import HEAD_MAX_BYTES, HEADERS_MAX, LINE_MAX_BYTES, HeadReader, Refused, Request

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
END = b"\r\n"


def read(data: bytes, step: int = HEAD_MAX_BYTES) -> list[Request | str]:
    """What comes of some bytes, given `step` at a time: requests, and the status of a refusal at the end."""
    heads, found = HeadReader(), list[Request | str]()
    try:
        while data or not heads.is_empty:
            request = heads.next()
            if request is not None:
                found.append(request)
            elif not data:
                break
            else:
                taken = min(step, heads.room)
                heads.take(data[:taken])
                data = data[taken:]
    except Refused as refusal:
        found.append(refusal.status)
    return found


WELL = {
    "the least": (GET + END, Request("GET", "/", {"host": "a"}, True)),
    "every kind of value": (
        b"HEAD /a?b=c HTTP/1.1\r\nhOsT:b:1\r\nX-Y: \t a \t b\xff \t\r\nempty:\r\n\r\n",
        Request("HEAD", "/a?b=c", {"host": "b:1", "x-y": "a \t b\xff", "empty": ""}, True),
    ),
    "a header twice": (
        GET + b"Accept: a\r\nACCEPT: b\r\n\r\n",
        Request("GET", "/", {"host": "a", "accept": "a, b"}, True),
    ),
    "the last one": (
        GET + b"Connection: x, Close\r\n\r\n",
        Request("GET", "/", {"host": "a", "connection": "x, Close"}, False),
    ),
    "HTTP/1.0": (b"GET / HTTP/1.0\r\n\r\n", Request("GET", "/", {}, False)),
    "a later minor version": (b"GET / HTTP/1.7\r\nHost: a\r\n\r\n", Request("GET", "/", {"host": "a"}, True)),
    "another method": (b"BREW / HTTP/1.1\r\nHost:\r\n\r\n", Request("BREW", "/", {"host": ""}, True)),
    "no body, and so it says": (
        GET + b"Content-Length: 0\r\n\r\n",
        Request("GET", "/", {"host": "a", "content-length": "0"}, True),
    ),
}
BAD, LARGE, FIELDS = "400 Bad Request", "413 Content Too Large", "431 Request Header Fields Too Large"
ILL = {
    "an empty line first": (END + GET + END, BAD),
    "no line": (END + END, BAD),
    "one word": (b"GET\r\n\r\n", BAD),
    "two words": (b"GET /\r\nHost: a\r\n\r\n", BAD),
    "four words": (b"GET / x HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "two spaces": (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "a tab for a space": (b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "a space before": (b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "a space behind": (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", BAD),
    "a method that is no token": (b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "a version in lower case": (b"GET / http/1.1\r\nHost: a\r\n\r\n", BAD),
    "a version of two digits": (b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", BAD),
    "a version of digits that are not ASCII": (b"GET / HTTP/\xb2.\xb3\r\nHost: a\r\n\r\n", BAD),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505 HTTP Version Not Supported"),
    "HTTP/0.9": (b"GET / HTTP/0.9\r\n\r\n", "505 HTTP Version Not Supported"),
    "a target that is not ASCII": (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "a whole address": (b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "an asterisk": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "no Host": (b"GET / HTTP/1.1\r\nX: y\r\n\r\n", BAD),
    "two Hosts": (GET + b"host: a\r\n\r\n", BAD),
    "two Hosts, 1.0": (b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", BAD),
    "a space before the colon": (GET + b"X : y\r\n\r\n", BAD),
    "a tab before the colon": (GET + b"X\t: y\r\n\r\n", BAD),
    "no colon": (GET + b"X\r\n\r\n", BAD),
    "no name": (GET + b": x\r\n\r\n", BAD),
    "a name that is not ASCII": (GET + b"X\xff: y\r\n\r\n", BAD),
    "a folded line": (GET + b"X: y\r\n z\r\n\r\n", BAD),
    "a folded line, by a tab": (GET + b"X: y\r\n\tz\r\n\r\n", BAD),
    "a folded first line": (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", BAD),
    "a bare line feed": (b"GET / HTTP/1.1\nHost: a\r\n\r\n", BAD),
    "bare line feeds": (b"GET / HTTP/1.1\nHost: a\n\n", BAD),
    "a line feed too many": (GET + b"X: y\r\n\n\r\n\r\n", BAD),
    "a bare carriage return": (GET + b"X: y\rz\r\n\r\n", BAD),
    "two carriage returns": (GET + b"X: y\r\r\n\r\n", BAD),
    "NUL": (GET + b"X: \0\r\n\r\n", BAD),
    "a control character": (GET + b"X: \x1b[2J\r\n\r\n", BAD),
    "DEL": (GET + b"X: \x7f\r\n\r\n", BAD),
    "TLS, before any line ends": (b"\x16\x03\x01\x02", BAD),
    "two lengths": (GET + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n", BAD),
    "two lengths in one": (GET + b"Content-Length: 0, 0\r\n\r\n", BAD),
    "a length with a sign": (GET + b"Content-Length: +0\r\n\r\n", BAD),
    "a negative length": (GET + b"Content-Length: -1\r\n\r\n", BAD),
    "a length in words": (GET + b"Content-Length: 0x0\r\n\r\n", BAD),
    "an empty length": (GET + b"Content-Length:\r\n\r\n", BAD),
    "a length of digits that are not ASCII": (GET + b"Content-Length: \xb2\r\n\r\n", BAD),
    "a length and a coding": (GET + b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n", BAD),
    "two codings": (GET + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n", BAD),
    "a body": (GET + b"Content-Length: 5\r\n\r\nhello", LARGE),
    "a body of very long length": (GET + b"Content-Length: 0" + b"9" * 5000 + b"\r\n\r\n", LARGE),
    "a body in chunks": (GET + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", LARGE),
    "a coding that is empty": (GET + b"Transfer-Encoding:\r\n\r\n", LARGE),
    "too many headers": (GET + b"X: y\r\n" * HEADERS_MAX + END, FIELDS),
    "a long head": (GET + b"X: " + b"x" * HEAD_MAX_BYTES, FIELDS),
    "a long first line": (b"GET /" + b"x" * LINE_MAX_BYTES, "414 URI Too Long"),
}


@pytest.mark.parametrize("step", [1, 7, HEAD_MAX_BYTES])
@pytest.mark.parametrize("what", WELL)
def test_a_head_that_is_well_formed(what: str, step: int) -> None:
    data, request = WELL[what]
    assert read(data, step) == [request]
    assert read(data + data, step) == [request, request]
    assert read(data + b"GET", step) == [request]


@pytest.mark.parametrize("step", [1, 7, HEAD_MAX_BYTES])
@pytest.mark.parametrize("what", ILL)
def test_a_head_that_is_ill_formed(what: str, step: int) -> None:
    data, status = ILL[what]
    assert read(data, step) == [status]
    assert read(GET + END + data, step)[1:] == [status]


@pytest.mark.parametrize("what", WELL)
def test_half_a_head_is_no_request(what: str) -> None:
    data, _ = WELL[what]
    for length in range(len(data)):
        assert read(data[:length]) == []


def test_bounds() -> None:
    room = HEAD_MAX_BYTES - len(GET) - len(b"X: \r\n\r\n")
    assert len(read(GET + b"X: " + b"x" * room + b"\r\n\r\n")) == 1
    assert isinstance(read(GET + b"X: " + b"x" * room + b"\r\n\r\n")[0], Request)
    assert read(GET + b"X: " + b"x" * (room + 1) + b"\r\n\r\n") == [FIELDS]
    assert isinstance(read(GET + b"X: y\r\n" * (HEADERS_MAX - 1) + END)[0], Request)
    target = b"/" + b"x" * (LINE_MAX_BYTES - len("GET / HTTP/1.1"))
    for step in (100, HEAD_MAX_BYTES):
        assert isinstance(read(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n", step)[0], Request)
        assert read(b"GET " + target + b"x HTTP/1.1\r\nHost: a\r\n\r\n", step) == ["414 URI Too Long"]


def test_a_path_is_a_target_without_its_query() -> None:
    for target, path in (("/", "/"), ("/a?b?c", "/a"), ("/%2e?", "/%2e"), ("//x", "//x")):
        assert Request("GET", target, {}, True).path == path


# Pieces of heads, so that nonsense comes close to sense.
PIECES = st.sampled_from(
    [
        *(GET, END, b"\r", b"\n", b":", b" ", b"\t", b"\0", b"\xff", b"Host: b\r\n", b"X:y\r\n", b"a" * 5000, b"GET /"),
        *(b"GET / HTTP/1.0\r\n", b"Content-Length: 0\r\n", b"Content-Length : 3\r\n", b"Transfer-Encoding: x\r\n"),
    ]
)


@settings(deadline=None)
@given(st.lists(PIECES | st.binary(max_size=8), max_size=8).map(b"".join), st.integers(1, 5000))
def test_whatever_comes_is_read_alike_in_any_pieces_and_nothing_else_is_raised(data: bytes, step: int) -> None:
    whole, parts = read(data), read(data, step)
    requests = [found for found in whole if isinstance(found, Request)]
    assert [found for found in parts if isinstance(found, Request)] == requests
    assert len(parts) == len(whole), "refused or not; of several faults another one may show first"
    assert len(requests) <= len(re.findall(b"\r\n\r\n", data))
    for request in requests:
        assert request.headers.get("content-length", "0").strip("0") == ""
        assert "transfer-encoding" not in request.headers
