# cython: language_level=3, wraparound=False, cdivision=True, binding=False
"""What app/requests/forwarding.py says of InFlight, compiled, and what stands in for its `ShortForwarding`: requests
that come and are sent on, and the answers to them. Everything else is `WholeForwarding`'."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from app.fast.frame_queue cimport FrameQueue
from app.fast.waiting cimport Kept

# As the Python says; a test holds the two together.
cpdef enum:
    GET = 2
    HOPS_MAX = 3
    IN_FLIGHT_BYTES = 512
    FORWARD = 1
    FORWARD_BYTES = 9

cdef enum:
    HEADER_BYTES = 5
    ID_BYTES = 16

cdef str _SELF = ""
cdef str _UNKNOWN = "?"
cdef str _FORWARDED = "forwarded"
SELF, UNKNOWN, FORWARDED = _SELF, _UNKNOWN, _FORWARDED  # for the tests


cdef class InFlight(Kept):
    def __init__(self, Kept request not None, int command, bytes message_id not None, int slot):
        self.fill(request)
        self.name(command, message_id, slot)

    cdef void fill(self, Kept request):
        self.datagram = request.datagram
        self.take_over(request)
        self.is_uncertain = request.is_uncertain

    cdef void name(self, int command, bytes message_id, int slot):
        self.how = _FORWARDED
        self.command = command
        self.message_id = message_id
        self.slot = slot
        self.sent_to = self.sent_over = ""

    @property
    def kept_bytes(self):
        return self.size()

    cdef int64_t size(self) except -1:
        return IN_FLIGHT_BYTES + len(self.datagram)


cdef class ShortForwarding:
    """See app/requests/forwarding.py; the numbers that its methods change lie here."""

    def relay(self, request, int command, bytes message_id not None, id_crc, int slot):
        """As WholeForwarding's."""
        return self.relayed(request, command, message_id, id_crc, slot)

    cdef object relayed(self, request, int command, bytes message_id, object id_crc, int slot):
        cdef InFlight kept
        if message_id in self._requests or self._waiting.full:
            return super(ShortForwarding, self).relay(request, command, message_id, id_crc, slot)
        kept = InFlight.__new__(InFlight)
        if request.is_kept:
            kept.fill(<Kept?>request)
        else:
            request.source.fill(kept)  # what it would take along itself
        if kept.hops >= HOPS_MAX:
            return super(ShortForwarding, self).relay(request, command, message_id, id_crc, slot)
        kept.name(command, message_id, slot)
        self._requests[message_id] = kept
        self._waiting.enter(kept.size())
        self.pass_on(kept)
        return None

    def _send(self, InFlight request not None):
        """As WholeForwarding's."""
        self.pass_on(request)

    cdef int pass_on(self, InFlight request) except -1:
        cdef str route = self._routes[request.slot]
        cdef double deadline_s
        if route != _SELF and route != _UNKNOWN and self._turn.may_forward:
            link = _got(self._links, route)
            if link is None:
                link = self._detour(request, route)
            if link is not None:
                deadline_s = request.deadline_s * self._clock_share + <double>link.clock_base_s
                header = _header(len(request.datagram), deadline_s, request.hops + 1)
                if (<FrameQueue>link).add(header, request.datagram) if isinstance(link, FrameQueue) else (
                    link.put(header, request.datagram)
                ):
                    if request.was_sent and request.command != GET:
                        request.is_uncertain = True
                    request.was_sent = True
                    request.sent_to = route
                    request.sent_over = link.peer
                    request.sent_s = self._turn.now_s
                    self.forwarded += 1
                    return 0
        request.sent_to = ""
        return 0

    def answer(self, str peer not None, list replies not None):
        """As WholeForwarding's."""
        cdef bytes reply
        cdef InFlight request
        for reply in replies:
            request = None
            if len(reply) >= 2 + ID_BYTES and reply[0] == 0x0A and reply[1] == ID_BYTES:
                request = self._requests.get(PyBytes_FromStringAndSize(PyBytes_AS_STRING(reply) + 2, ID_BYTES))
            if request is None or request.is_uncertain:
                super().answer(peer, [reply])
            elif request.sent_over == peer:
                del self._requests[request.message_id]
                self._waiting.leave(request.size())
                self._answers.bring(request, reply)


cdef inline object _got(links, str peer):
    """What a mapping has under a key, or None."""
    return (<dict>links).get(peer) if type(links) is dict else links.get(peer)


cdef bytes _header(Py_ssize_t datagram_bytes, double deadline_s, int hops):
    """Of the frame, and what stands before the datagram: see app/peers/frames.py."""
    cdef bytes header = PyBytes_FromStringAndSize(NULL, HEADER_BYTES + FORWARD_BYTES)
    cdef uint8_t* out = <uint8_t*>PyBytes_AS_STRING(header)
    cdef uint32_t length = <uint32_t>(FORWARD_BYTES + datagram_bytes)
    cdef uint64_t bits
    cdef int n
    memcpy(&bits, &deadline_s, sizeof(bits))
    for n in range(4):
        out[n] = (length >> (8 * n)) & 0xFF
    out[4] = FORWARD
    for n in range(8):
        out[HEADER_BYTES + n] = (bits >> (8 * n)) & 0xFF
    out[HEADER_BYTES + 8] = <uint8_t>hops
    return header
