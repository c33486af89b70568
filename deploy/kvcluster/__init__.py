"""A client of kvcluster, the distributed in-memory key-value store.

    from kvcluster import Client, KeyNotFound

    with Client(["10.0.0.1:3331", "10.0.0.2:3331"]) as client:
        client.put(b"greeting", b"hello, world", version=3)
        value, version = client.get(b"greeting")

This package is made of the repository's packages app, proto_gen and tools (setup.py). Its public names are those of
app.client; they are imported when one is asked for, since the commands have no need of most.
"""

from typing import TYPE_CHECKING

from app.version import VERSION as __version__

if TYPE_CHECKING:
    from app.client import *  # noqa: F403

__all__ = ["__version__"]  # and those of app.client: see __getattr__


def __getattr__(name: str) -> object:
    from app import client

    if name not in client.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(client, name)
