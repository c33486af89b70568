# cython: language_level=3, wraparound=False, binding=False
"""What stands in for `ShortCommands` of app/requests/commands.py: the short way of `handle`, which says what it does.
Everything else is `WholeCommands`'."""

from libc.stdint cimport uint32_t

from app.fast.codec cimport error_response, found_response, ordinary
from app.fast.forwarding cimport ShortForwarding
from app.fast.mutate cimport Mutations
from app.fast.store cimport ShortWay

# As app/wire/protocol.py says; a test holds the two together.
cpdef enum:
    PUT = 1
    GET = 2
    NO_ERR = 0
    KEY_DNE_ERR = 1
    SYS_OVERLOAD_ERR = 3


cdef inline object _relayed(forwarding, request, int command, bytes message_id, id_crc, int slot):
    if isinstance(forwarding, ShortForwarding):
        return (<ShortForwarding>forwarding).relayed(request, command, message_id, id_crc, slot)
    return forwarding.relay(request, command, message_id, id_crc, slot)


cdef inline bytes _found(store, int slot, bytes key):
    return (<ShortWay>store).found(slot, key) if isinstance(store, ShortWay) else store.get(slot, key)


cdef inline int _put(mutations, int slot, bytes key, bytes blob, bytes message_id) except -1000:
    if isinstance(mutations, Mutations):
        return (<Mutations>mutations).executed(PUT, slot, key, blob, message_id, 0)
    return mutations.execute(PUT, slot, key, blob, message_id)


cdef class ShortCommands:
    """See app/requests/commands.py."""

    cdef public object _turn
    cdef public object _store
    cdef public object _mutations
    cdef public list _counts
    cdef public object _forwarding
    cdef public object _followed
    cdef public object _unacked

    def handle(self, request, buffer, Py_ssize_t start, Py_ssize_t end):
        """As WholeCommands'."""
        cdef tuple taken = ordinary(buffer, start, end)
        cdef int command, slot, code
        cdef uint32_t id_crc
        cdef bytes key, blob
        if taken is None:
            return super().handle(request, buffer, start, end)
        try:
            command, slot = taken[0], taken[3]
            if self._turn.routes[slot]:
                return _relayed(self._forwarding, request, command, taken[1], taken[2], slot)
            key = taken[4]
            id_crc = taken[2]
            if command == GET:
                if key not in self._unacked:
                    blob = _found(self._store, slot, key)
                    if blob is None:
                        self._counts[GET * 8 + KEY_DNE_ERR] += 1
                        return error_response(taken[1], id_crc, KEY_DNE_ERR)
                    self._counts[GET * 8 + NO_ERR] += 1
                    return found_response(taken[1], id_crc, blob)
            elif self._followed[slot] is None:
                code = _put(self._mutations, slot, key, taken[5], taken[1])
                if code < 0:
                    code = ~code
                    self._counters.retries_answered += 1
                elif code == SYS_OVERLOAD_ERR:
                    return self._answer.refusal(request, PUT, taken[1], id_crc, self._mutations.wait_ms)
                self._counts[PUT * 8 + code] += 1
                return error_response(taken[1], id_crc, code)
            return self._see_to(request, *taken)
        except Exception as error:
            return self._broken(error, bytes(buffer[start:end]))
