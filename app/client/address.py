"""From "host:port" to something that a socket can be connected to, for IPv4 and IPv6."""

import socket
from typing import NamedTuple

from app.client.errors import BadServer


class Endpoint(NamedTuple):
    """Where a server is: its name as it was given, and the address family and address that it resolved to.

    `address` empty: the name has not resolved yet.
    """

    name: str
    family: socket.AddressFamily
    address: tuple[object, ...]


def split_host_port(text: str) -> tuple[str, int]:
    """("127.0.0.1", 3331) of "127.0.0.1:3331"; an IPv6 address stands in brackets: "[::1]:3331".

    BadServer when it is anything else: no port, port not in 1 to 65535, IPv6 address without brackets.
    """
    host, colon, port = text.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise BadServer(f"{text!r}: an IPv6 address goes in brackets, like [::1]:3331")
    if not (colon and host):
        raise BadServer(f"{text!r} is not host:port, like 127.0.0.1:3331")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise BadServer(f"{text!r}: {port!r} is not a port (1 to 65535)")
    return host, int(port)


def numeric(text: str) -> Endpoint | None:
    """The Endpoint that "address:port" names, without asking anybody; None when its host is a name, or malformed."""
    try:
        host, port = split_host_port(text)
        found = socket.getaddrinfo(_encoded(host), port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)
    except (OSError, ValueError):
        return None
    family, _, _, _, address = found[0]
    return Endpoint(text, family, address)


def unresolved(text: str) -> Endpoint:
    """The Endpoint of a name that is to be looked up later. BadServer when it is malformed."""
    split_host_port(text)
    return Endpoint(text.strip(), socket.AF_UNSPEC, ())


def resolve(text: str, after: Endpoint | None = None) -> Endpoint:
    """The Endpoint that "host:port" names.

    A name with addresses of both families is taken as IPv4: nodes listen there unless told otherwise, and
    UDP has no handshake by which the other one could be tried in passing. Of several addresses of that family it is the
    first, or the next one after that of the Endpoint `after`. BadServer also when it does not resolve.
    """
    host, port = split_host_port(text)
    try:
        found = socket.getaddrinfo(_encoded(host), port, type=socket.SOCK_DGRAM)
    except (OSError, ValueError) as error:  # the latter: what can't be a host's name at all
        raise BadServer(f"{text!r}: {getattr(error, 'strerror', None) or error}") from None
    family = min((entry[0] for entry in found), key=lambda family: family != socket.AF_INET)
    addresses = [entry[4] for entry in found if entry[0] == family]
    place = addresses.index(after.address) + 1 if after is not None and after.address in addresses else 0
    return Endpoint(text.strip(), family, addresses[place % len(addresses)])


def _encoded(host: str) -> str | bytes:
    """For the resolver. For a str Python imports its tables of international names, 2 ms: an address needs none."""
    is_address = ":" in host or (host.isascii() and host.replace(".", "").isdigit())
    return host.encode() if is_address else host
