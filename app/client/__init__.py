"""The store's client: importable anywhere, with gevent or without, and of no use to a node.

    from app.client import AsyncClient, Client, KeyNotFound

AsyncClient is imported when it is asked for: asyncio takes longer to import than all the rest.
"""

from typing import TYPE_CHECKING

from app.client.calls import Versioned
from app.client.client import Client
from app.client.codec import KVRequest, KVResponse
from app.client.errors import (
    BadAnswer,
    BadServer,
    Closed,
    ErrorAnswer,
    InternalError,
    InvalidKey,
    InvalidValue,
    KeyNotFound,
    KVError,
    NoSpace,
    NotTried,
    Overloaded,
    PartialFailure,
    Timeout,
    UnknownCommand,
    Unreachable,
    WrongCluster,
)
from app.client.stats import Stats

if TYPE_CHECKING:
    from app.client.aio import AsyncClient

__all__ = [
    "AsyncClient",
    "BadAnswer",
    "BadServer",
    "Client",
    "Closed",
    "ErrorAnswer",
    "InternalError",
    "InvalidKey",
    "InvalidValue",
    "KVError",
    "KVRequest",
    "KVResponse",
    "KeyNotFound",
    "NoSpace",
    "NotTried",
    "Overloaded",
    "PartialFailure",
    "Stats",
    "Timeout",
    "UnknownCommand",
    "Unreachable",
    "Versioned",
    "WrongCluster",
]


def __getattr__(name: str) -> object:
    if name != "AsyncClient":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from app.client.aio import AsyncClient

    return AsyncClient
