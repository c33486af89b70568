"""Whether what clients saw of one key can have happened one after the other (Wing & Gong's search, with Lowe's memory).

An operation takes effect at one moment between its call and its return. The search goes through the calls in order of
time and tries each that may come next; what was done and the value that this left are remembered, so that no such
state is tried twice.
"""

from dataclasses import dataclass
from math import inf

PUT, GET, REMOVE = "PUT", "GET", "REMOVE"
DONE, MISSING = "done", "missing"


@dataclass(frozen=True)
class Operation:
    """`value`: what was put, or what was got (None: nothing there). `result` None: no answer, it may have happened."""

    kind: str
    value: str | None
    called: float
    returned: float = inf
    result: str | None = None


def is_linearizable(operations: list[Operation], *, forgets: bool) -> bool:
    """`forgets`: a value may be gone at any time (evicted), but no other may be in its place."""
    read = {operation.value for operation in operations if operation.kind == GET}
    operations = [op for op in operations if op.kind != GET or op.result is not None]
    if forgets:
        # A REMOVE that may have happened, or not, says nothing then; but each would double what is to be tried.
        operations = [op for op in operations if op.value is not None or (op.kind == REMOVE and op.result is not None)]
    # A write without an answer that nobody read need not have happened; but it may be what a REMOVE removed.
    kept = [op for op in operations if op.kind != PUT or op.result is not None or op.value in read]
    lenient = forgets or len(kept) < len(operations)
    kept.sort(key=lambda op: op.called)
    return _search(kept, lenient)


def _search(operations: list[Operation], lenient: bool) -> bool:
    must = sum(1 << index for index, op in enumerate(operations) if op.result is not None)
    seen: set[tuple[int, str | None]] = set()
    stack: list[tuple[int, str | None]] = [(0, None)]
    while stack:
        state = stack.pop()
        if state in seen:
            continue
        seen.add(state)
        done, value = state
        if done & must == must:
            return True
        # Whoever returned first among the rest bounds what may come next.
        first_return = inf
        candidates = []
        index = _low_zero(done)
        while index < len(operations):
            op = operations[index]
            if op.called > first_return:
                break
            if not done >> index & 1:
                candidates.append(index)
                first_return = min(first_return, op.returned)
            index += 1
        for index in reversed(candidates):
            op = operations[index]
            if op.called <= first_return and (legal := _apply(op, value, lenient))[0]:
                stack.append((done | 1 << index, legal[1]))
    return False


def _low_zero(mask: int) -> int:
    return (~mask & (mask + 1)).bit_length() - 1


def _apply(op: Operation, value: str | None, lenient: bool) -> tuple[bool, str | None]:
    """Whether the operation may come next, and the value after it."""
    if op.kind == PUT:
        return True, op.value
    if op.kind == GET:
        return op.value == value, value
    if op.result == DONE and not lenient:
        return value is not None, None
    if op.result == MISSING and not lenient:
        return value is None, None
    return True, None
