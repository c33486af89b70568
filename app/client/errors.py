"""What can go wrong for a client, as exceptions: one class for each error code, and a few more.

KVError
  Timeout            nobody answered in time; also a TimeoutError
    Unreachable      nothing listens at any server, or there is no way there, by word of the machines
    NotTried         given up before anything was sent for this key: nobody answers, or the call's time is over
  Closed             the client was closed before; also a RuntimeError
  BadServer          the given "host:port" is malformed or does not resolve; also a ValueError
  WrongCluster       one of the given servers belongs to another cluster than the others
  PartialFailure     get_many and the like: some keys failed, each with one of the others
  BadAnswer          an answer without a field that it must have: the node breaks the protocol
  ErrorAnswer        the node answered with an error code (`code`)
    KeyNotFound      KEY_DNE_ERR
    NoSpace          NO_SPC_ERR: the store is full and evicts nothing
    Overloaded       SYS_OVERLOAD_ERR, for longer than the client is ready to wait
    InternalError    INTERNAL_ERR
    UnknownCommand   UNKNOWN_CMD_ERR
    InvalidKey       INVALID_KEY_ERR
    InvalidValue     INVALID_VAL_ERR
"""

from collections.abc import Mapping
from typing import Any, Final

from app.wire import protocol


class KVError(Exception):
    """The root of everything that a client raises on purpose. Pickle keeps all of it but the traceback."""

    def __reduce__(self) -> tuple[Any, ...]:
        # By default an exception is made again by calling its class with `args`; constructors here take other things.
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[KVError], args: tuple[Any, ...], attributes: dict[str, Any]) -> KVError:
    """What pickle and copy make an exception of again."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


class Timeout(KVError, TimeoutError):
    """No answer to any try. A PUT, REMOVE or WIPEOUT may or may not have taken effect, and may yet.

    Calling again is a new request and not a retry of this one: only the tries of one call share a messageID.
    """


class Unreachable(Timeout):
    """Nothing listens at any of the servers' addresses, by word of their machines, or this machine knows no way there
    (no route, a firewall). Told at once, without further tries.

    Not by a client made with give_up_when_refused=False: that one goes on trying, since a node that restarts refuses as
    well.
    """


class Closed(KVError, RuntimeError):
    """The client was closed before, or, by another greenlet or thread, in the middle of the call. Nothing is sent."""

    def __init__(self, text: str = "this Client is closed") -> None:
        super().__init__(text)


class WrongCluster(KVError):
    """The given servers belong to different clusters; the text names them. Nothing was sent.

    Which one is meant only the caller knows. For as long as they say so, every call raises this but those that name a
    server.
    """


class NotTried(Timeout):
    """Nothing was sent for this key: the call's time was over before its turn came, or nobody had answered anything for
    as long as a whole schedule of tries."""


class PartialFailure(KVError):
    """Some of the keys of get_many, put_many or remove_many failed; what the others gave is not lost.

    `errors`: by key, what a call for that key alone would have raised, or NotTried. `result`: what the call would have
    returned, for the keys that did not fail (None for put_many: all that are not in `errors` are stored).
    """

    def __init__(self, what: str, errors: Mapping[bytes, KVError], result: Any) -> None:
        key, error = next(iter(errors.items()))
        more = f", and {len(errors) - 1} more keys failed" if len(errors) > 1 else ""
        super().__init__(f"{what}: {key!r} failed: {error}{more}")
        self.errors = dict(errors)
        self.result = result


class BadServer(KVError, ValueError):
    """A server's address that is not "host:port", or whose host has no address."""


class BadAnswer(KVError):
    """The node says NO_ERR and leaves out what was asked for. Nothing to retry: report the node."""


class ErrorAnswer(KVError):
    """The node answered with the error code `code`. Of this very class only when the code is unknown."""

    def __init__(self, code: int, what: str = "") -> None:
        name = protocol.ERROR_NAMES.get(code, f"error code {code}")
        super().__init__(f"{what}: {name}" if what else name)
        self.code = code


class KeyNotFound(ErrorAnswer):
    """GET or REMOVE of a key that is not there."""


class NoSpace(ErrorAnswer):
    """The store is full and its policy is to evict nothing. Remove something, or put something smaller."""


class Overloaded(ErrorAnswer):
    """Refused for now, again and again, until the client's patience was over.

    `may_have_happened` is false when every try was answered with the refusal, so that nothing was done; true
    when one of the tries was never answered at all.
    """

    def __init__(self, code: int, what: str = "", may_have_happened: bool = False) -> None:
        super().__init__(code, what)
        self.may_have_happened = may_have_happened


class InternalError(ErrorAnswer):
    """Something that the node can't recover from; its log says what."""


class UnknownCommand(ErrorAnswer):
    """The node does not know this command: it is older than the client, or no such node at all."""


class InvalidKey(ErrorAnswer):
    """The key is empty or over 32 bytes."""


class InvalidValue(ErrorAnswer):
    """The value is over 10,000 bytes."""


_CLASSES: Final[dict[int, type[ErrorAnswer]]] = {
    protocol.KEY_DNE_ERR: KeyNotFound,
    protocol.NO_SPC_ERR: NoSpace,
    protocol.SYS_OVERLOAD_ERR: Overloaded,
    protocol.INTERNAL_ERR: InternalError,
    protocol.UNKNOWN_CMD_ERR: UnknownCommand,
    protocol.INVALID_KEY_ERR: InvalidKey,
    protocol.INVALID_VAL_ERR: InvalidValue,
}
assert {protocol.NO_ERR, *_CLASSES} == set(protocol.ERROR_NAMES), "an error code without its exception"


def error_answer(code: int, what: str = "") -> ErrorAnswer:
    """The exception for an error code; `what` (say, "get of b'k'") opens its text."""
    assert code != protocol.NO_ERR, "NO_ERR is no error"
    return _CLASSES.get(code, ErrorAnswer)(code, what)
