"""Where views are decided on: by the nodes themselves, or in an etcd that runs anyway; and how to reach that."""

import re
from dataclasses import dataclass, field
from typing import Final

from app.config import files
from app.config.servers import split_host_port

ENDPOINTS_MAX: Final = 16
# Part of the keys: what needs no escaping anywhere.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
_HOW_TO: Final = "write etcd:http://HOST:PORT,…/NAME, or https://"
# A user and a password; all certificates that a system trusts are a quarter of this. What is longer is another file.
USER_MAX_BYTES: Final = 1024
CERTIFICATES_MAX_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One member of an etcd, or what stands for it."""

    host: str
    port: int
    is_tls: bool

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' * self.is_tls}://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Coordination:
    """An etcd, and the name of the cluster in it."""

    endpoints: tuple[Endpoint, ...]
    name: str

    def __str__(self) -> str:
        return f"etcd:{','.join(map(str, self.endpoints))}/{self.name}"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who a node is to etcd, read from a file."""

    user: str
    password: str = field(repr=False)
    path: str = field(default="", compare=False)


def parse_coordination(text: str) -> Coordination | None:
    """`built-in`: None; else what `etcd:URL[,URL…]/NAME` says. ValueError with a phrase that says what is wrong."""
    if text == "built-in":
        return None
    engine, _, rest = text.partition(":")
    if engine != "etcd":
        raise ValueError(f"isn't built-in or an etcd: {_HOW_TO}")
    urls, slash, name = rest.rpartition("/")
    if not slash or not urls or urls.endswith("/"):
        raise ValueError(f"names no cluster: {_HOW_TO}")
    if not _NAME.fullmatch(name):
        what = "1 to 63 of letters, digits, dots, hyphens and underscores, the first a letter or digit"
        raise ValueError(f"{name!r} isn't a name: {what}")
    parts = urls.split(",")
    if len(parts) > ENDPOINTS_MAX:
        raise ValueError(f"names more than {ENDPOINTS_MAX} endpoints")
    endpoints = tuple(map(_parse_endpoint, parts))
    if len({endpoint.is_tls for endpoint in endpoints}) > 1:
        raise ValueError("has http:// and https://: what is sent over one of them anybody could read")
    return Coordination(endpoints, name)


def _parse_endpoint(text: str) -> Endpoint:
    scheme, mark, rest = text.partition("://")
    if not mark or scheme not in ("http", "https"):
        raise ValueError(f"{text!r} isn't an endpoint: {_HOW_TO}")
    if "@" in rest:
        raise ValueError("has a user, whom every user of the machine could see: leave it to --etcd-user-file")
    if "/" in rest:
        raise ValueError(f"{text!r} isn't an endpoint: NAME comes once, after all of them: {_HOW_TO}")
    try:
        host, port = split_host_port(rest)
    except ValueError as error:
        raise ValueError(f"{text!r} isn't an endpoint: {error}") from None
    return Endpoint(host, port, scheme == "https")


def read_credentials(path: str, *, again: bool = False) -> Credentials:
    """What a file of one line USER:PASSWORD holds; `again`: see files.py. ValueError with what is wrong."""
    content = _content(path, USER_MAX_BYTES, again=again)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"can't be read: {error}") from None
    user, colon, password = text.removesuffix("\n").removesuffix("\r").partition(":")
    if "\n" in password or not (user and colon and password):
        raise ValueError("isn't one line USER:PASSWORD")
    return Credentials(user, password, path)


def read_certificates(path: str) -> bytes:
    """The content of a file of certificates, or of a key, which is not looked into. ValueError with what is wrong.

    It is no pipe: who makes use of it opens it once more.
    """
    return _content(path, CERTIFICATES_MAX_BYTES, again=True)


def file_of_certificates(path: str) -> str:
    """The path, if the file can be read. ValueError with what is wrong."""
    read_certificates(path)
    return path


def _content(path: str, max_bytes: int, *, again: bool) -> bytes:
    try:
        content = files.read(path, max_bytes + 1, again=again)
    except OSError as error:
        raise ValueError(f"can't be read: {error.strerror or error}") from None
    if len(content) > max_bytes:
        raise ValueError(f"has more than {max_bytes} bytes")
    return content
