"""Exceptions: what they say, and on their way to another process."""

import copy
import pickle

import pytest

import app.client
from app.client import BadAnswer, KVError, Overloaded, PartialFailure, Timeout, calls
from app.client.codec import KVRequest, KVResponse, NotAnAnswer
from app.client.errors import error_answer
from app.wire import protocol

KINDS = sorted(
    (kind for kind in vars(app.client).values() if isinstance(kind, type) and issubclass(kind, KVError)),
    key=lambda kind: kind.__name__,
)
CODES = [*protocol.ERROR_NAMES, 200]
CODES.remove(protocol.NO_ERR)


def alike(one: BaseException, other: BaseException) -> None:
    assert type(one) is type(other)
    assert (str(one), one.args) == (str(other), other.args)
    ours, theirs = dict(vars(one)), dict(vars(other))
    for key, error in ours.pop("errors", {}).items():
        alike(error, theirs["errors"][key])
    theirs.pop("errors", None)
    assert ours == theirs


def assert_survives(error: Exception) -> None:
    for protocol_number in range(pickle.HIGHEST_PROTOCOL + 1):
        alike(pickle.loads(pickle.dumps(error, protocol_number)), error)
    alike(copy.copy(error), error)
    alike(copy.deepcopy(error), error)


@pytest.mark.parametrize("code", CODES)
def test_error_answers_survive_pickle(code: int) -> None:
    error = error_answer(code, "get of b'key'")
    if isinstance(error, Overloaded):
        error.may_have_happened = True
    assert_survives(error)


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if not issubclass(kind, (PartialFailure, app.client.ErrorAnswer))]
)
def test_the_others_survive_pickle_with_whatever_was_added(kind: type[KVError]) -> None:
    error = kind("what went wrong")
    error.add_note("seen at noon")
    assert_survives(error)


def test_a_partial_failure_survives_pickle_with_what_failed_and_what_did_not() -> None:
    errors = {b"a": error_answer(protocol.SYS_OVERLOAD_ERR, "get of b'a'"), b"b": Timeout("no answer")}
    error = PartialFailure("get_many", errors, {b"c": (b"value", 7)})
    assert_survives(error)
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again.errors[b"a"], Overloaded)
    assert again.result == {b"c": (b"value", 7)}


class OfACaller(KVError):
    """With a constructor of its own."""

    def __init__(self, *, where: str, when: int) -> None:
        super().__init__(f"at {where}")
        self.where = where
        self.when = when


def test_a_callers_own_kind_survives_pickle() -> None:
    assert_survives(OfACaller(where="home", when=3))


def test_what_is_no_answer_survives_pickle() -> None:
    assert_survives(NotAnAnswer("unparsable"))


def test_only_what_was_refused_for_now_may_have_happened() -> None:
    request = KVRequest(command=protocol.PUT, key=b"k")
    for code, tells in ((protocol.SYS_OVERLOAD_ERR, True), (protocol.NO_SPC_ERR, False)):
        error = calls.fault(request, KVResponse(errCode=code), may_have_happened=True)
        assert getattr(error, "may_have_happened", False) == tells


@pytest.mark.parametrize("response", [KVResponse(value=b"v"), KVResponse(version=1), KVResponse()])
def test_a_value_comes_with_its_version(response: KVResponse) -> None:
    with pytest.raises(BadAnswer, match="without value and version"):
        calls.get(b"k").read(response)
