"""Who may read the pages with a browser's help: only the pages themselves, and whoever opens them.

A browser is within the network that the node trusts, and runs programs that strangers wrote. Two ways lead from such a
program to the node:

- **Its own name.** The stranger's page comes from a name of his, which he then lets stand for the node's address (DNS
  rebinding): to the browser, node and page are one place. The name is told in Host, so only names of the node's own are
  answered: its line of the servers file, the machine's name, localhost, and those of --http-host. A numeric address is
  always answered, since nobody can make it stand for another machine; so are published ports, and probes and scrapes by
  address. etcd and Transmission do the same and answer 421, too.
- **Another place.** A page asks the node as another origin. It may not read the answer, since no header of ours lets
  it (CORS); it may not even embed it (Cross-Origin-Resource-Policy); and what a browser says to come from elsewhere
  (Sec-Fetch-Site) is refused unread, unless somebody follows a link to a page. What is no browser says nothing there.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from app.config.servers import is_address

ANY: Final = "*"  # among the names: every name is answered
_HOST: Final = re.compile(r"(\[[^\[\]]*\]|[^\[\]:]*)(?::[0-9]*)?")


class Names:
    """What a node may be called in Host."""

    def __init__(self, own: Iterable[str], given: Iterable[str]) -> None:
        """`own`: the node's and its machine's. `given`: by --http-host."""
        names = (*own, *given, "localhost")
        self._names = frozenset(_canonical(name) for name in names)

    def include(self, host: str) -> bool:
        """Whether this is the node: `host` as the header has it, a port and all."""
        match = _HOST.fullmatch(host)
        if not match:
            return False
        name = _canonical(match[1])
        if ANY in self._names or name in self._names or name.endswith(".localhost"):  # RFC 6761: the browser's machine
            return True
        if name.startswith("["):
            return ":" in name and is_address(name[1:-1])
        return is_address(name)


def _canonical(name: str) -> str:
    return name.lower().removesuffix(".")


def is_from_elsewhere(headers: Mapping[str, str]) -> bool:
    """Whether a browser asks on behalf of another place's page, and not because somebody goes to one of ours."""
    if headers.get("sec-fetch-site") in (None, "same-origin", "none"):
        return False
    return (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) != ("navigate", "document")
