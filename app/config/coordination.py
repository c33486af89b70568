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
# A user and a password; a chain of certificates and keys. What is longer is another file.
USER_MAX_BYTES: Final = 1024


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
        raise ValueError(f"{name!r} isn't a name: 1 to 63 of letters, digits, dots, hyphens and underscores")
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
    try:
        host, port = split_host_port(rest)
    except ValueError as error:
        raise ValueError(f"{text!r} isn't an endpoint: {error}") from None
    return Endpoint(host, port, scheme == "https")


def read_credentials(path: str) -> Credentials:
    """What a file of one line USER:PASSWORD holds. ValueError with what is wrong."""
    try:
        content, _ = files.read(path, USER_MAX_BYTES + 1, again=False)
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"can't be read: {getattr(error, 'strerror', None) or error}") from None
    user, colon, password = text.removesuffix("\n").removesuffix("\r").partition(":")
    if len(content) > USER_MAX_BYTES or "\n" in password or not (user and colon and password):
        raise ValueError("isn't one line USER:PASSWORD")
    return Credentials(user, password)


def readable(path: str) -> str:
    """The path, if the file can be read. ValueError with what is wrong."""
    try:
        files.read(path, 1, again=False)
    except OSError as error:
        raise ValueError(f"can't be read: {error.strerror or error}") from None
    return path
