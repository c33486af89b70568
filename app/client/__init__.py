"""The store's client: importable anywhere, with gevent or without, and of no use to a node.

from app.client import Client, KeyNotFound
"""

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

__all__ = [
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
