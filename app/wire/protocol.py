"""The protocol's numbers: commands, error codes, message types and limits, spelled as clients know them; and what node
and client compute alike, a key's slot and a number's bytes.

Plain integers, not enums: these are compared on every request, and an IntEnum comparison costs several times
that of an int. Names for people (logs, counters, tools) come from the two tables at the end.
"""

from typing import Final
from zlib import crc32

# What a Msg is, in its field `type`; a Msg without that field is a request. 3 to 15 are free for the public protocol;
# from 16 on they are the nodes' own.
TYPE_REQUEST: Final = 0  # a client asks
TYPE_RESPONSE: Final = 1  # a node answers
TYPE_ACK: Final = 2  # a client has the answer, so that the node may forget it
TYPE_CLUSTER: Final = 16  # between nodes, about membership

# What a request wants, in the field `command` of its KVRequest. 1 to 8 are the public protocol's.
PUT: Final = 1  # store a value and its version under a key
GET: Final = 2  # tell the value and version of a key
REMOVE: Final = 3  # forget a key
SHUTDOWN: Final = 4  # answer, then end the process at once
WIPEOUT: Final = 5  # forget every key of the slots that this node is primary of
IS_ALIVE: Final = 6  # answer, and nothing else
GET_PID: Final = 7  # tell the number of the node's process
GET_MEMBERSHIP_CNT: Final = 8  # tell how many nodes are alive as this one sees it, itself included
# From 32 on they are this project's own, unknown to other servers of this protocol.
STATUS: Final = 32  # tell the node's view of the cluster, as JSON in `value`
SLOWLOG: Final = 33  # tell the node's slow requests, newest first, likewise
VITALS: Final = 34  # tell the node's process in numbers, likewise
FOUND: Final = 35  # found a cluster with fewer servers than it needs, and tell whether that was done, likewise
CONFIG: Final = 36  # change the node's settings, if `value` names any, and tell them, likewise
SERVERS: Final = 37  # have a server belong, or no more, if `value` names one, and tell who does, likewise
REPORTS: Final = (STATUS, SLOWLOG, VITALS, FOUND, CONFIG, SERVERS)
ADMINISTRATORS_ONLY: Final = (SHUTDOWN, WIPEOUT, FOUND, CONFIG, SERVERS)

# How a request went, in the field `errCode` of its KVResponse.
NO_ERR: Final = 0  # as it was asked for
KEY_DNE_ERR: Final = 1  # GET, REMOVE: the key does not exist
NO_SPC_ERR: Final = 2  # PUT: the store is full, and may not evict
SYS_OVERLOAD_ERR: Final = 3  # nothing was done; try again after `overloadWaitTime` ms
INTERNAL_ERR: Final = 4  # a fault in the node's code; it may or may not have been done
UNKNOWN_CMD_ERR: Final = 5  # no such command
INVALID_KEY_ERR: Final = 6  # the key is empty or too long
INVALID_VAL_ERR: Final = 7  # PUT: the value is missing or too long. REPORTS: it is too short

# Bounds (bytes), all from the public protocol. Clients may rely on them: raising one would have them meet what they
# can't take, lowering one would refuse what they are used to send.
DATAGRAM_MAX_BYTES: Final = 16 * 1024  # of a whole datagram, in either direction
MESSAGE_ID_MAX_BYTES: Final = 64  # of Msg.messageID; it has at least one byte
KEY_MAX_BYTES: Final = 32  # a key has at least one byte
VALUE_MAX_BYTES: Final = 10_000  # a value may be empty

# A node must be able to say whatever it stores in one datagram: envelope and response fields take at most
# 64 (messageID) + 9 (checkSum) + 11 (type) + 40 (payload framing, errCode, version) bytes besides the value.
assert VALUE_MAX_BYTES + MESSAGE_ID_MAX_BYTES + 60 <= DATAGRAM_MAX_BYTES

# An address that sends proves nothing, so a stranger gets a report of at most so many times the bytes that it has sent,
# and fills the request's `value` up to ask for a long one. (What QUIC allows to an address without proof is 3 times.)
STRANGERS_SHARE: Final = 2
# How many bytes to fill up with: as many as a datagram takes that no network cuts, 1,232 (IPv6's least MTU, 1,280,
# less two headers); and enough for any report. 60 bytes are for everything else in the request, 100 in the answer.
PADDING_BYTES: Final = 1_172
PADDING_MAX_BYTES: Final = 5_040
assert PADDING_BYTES + 60 <= 1_232
assert STRANGERS_SHARE * PADDING_MAX_BYTES >= VALUE_MAX_BYTES + 64 + 16

# The slots that the keyspace is divided into. A client that sends requests straight to a slot's primary computes them
# as well (`slot_of`), so their number is part of the protocol.
SLOT_COUNT: Final = 256
ALL_SLOTS: Final = (1 << SLOT_COUNT) - 1  # as a set of slots is written: an int whose bit s is slot s
_SLOT_MASK: Final = SLOT_COUNT - 1
assert SLOT_COUNT & _SLOT_MASK == 0, "a power of two: a slot is some of the bits of a checksum"


def slot_of(key: bytes) -> int:
    """The slot of a key: the low eight bits of its CRC-32."""
    return crc32(key) & _SLOT_MASK


def varint(number: int) -> bytes:
    """A number in a message: base 128, low digits first; a negative number as its 64 bits of two's complement."""
    if number < 0x80:
        if number >= 0:
            return b"%c" % number
        number += 1 << 64
    digits = bytearray()
    while number >= 0x80:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)


# How STATUS names a member in one character, so that a table of 256 slots stays short: by its place in the list of
# members, with URL-safe base64's digits.
PLACE_DIGITS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
PLACE_NOBODY: Final = "."  # in place of a digit, where a slot has no such member
assert len(PLACE_DIGITS) == len(set(PLACE_DIGITS)), "each digit names one member"

# The servers that a cluster takes: each of them may become a member, and a member needs a digit.
SERVERS_MAX: Final = len(PLACE_DIGITS)
# Of a server's name, "host:port" as its line in the servers file has it (bytes). A view has each member's name, and
# travels in one datagram (app/cluster/view.py has the sum).
ADDRESS_MAX_BYTES: Final = 80
# Copies of a slot, the primary's included. Each takes a byte a slot of a view; and a write waits for all of them.
COPIES_MAX: Final = 8

# How the clients in the field retry: after each of these silences (ms) the same datagram goes out again; the
# last one ends in giving up. The last try leaves 4.45 s after the first.
CLIENT_TIMEOUTS_MS: Final = (150, 450, 1350, 2500, 2000)

# What people read in logs, counters and tools, by number.
COMMAND_NAMES: Final = {
    PUT: "PUT",
    GET: "GET",
    REMOVE: "REMOVE",
    SHUTDOWN: "SHUTDOWN",
    WIPEOUT: "WIPEOUT",
    IS_ALIVE: "IS_ALIVE",
    GET_PID: "GET_PID",
    GET_MEMBERSHIP_CNT: "GET_MEMBERSHIP_CNT",
    STATUS: "STATUS",
    SLOWLOG: "SLOWLOG",
    VITALS: "VITALS",
    FOUND: "FOUND",
    CONFIG: "CONFIG",
    SERVERS: "SERVERS",
}

ERROR_NAMES: Final = {
    NO_ERR: "NO_ERR",
    KEY_DNE_ERR: "KEY_DNE_ERR",
    NO_SPC_ERR: "NO_SPC_ERR",
    SYS_OVERLOAD_ERR: "SYS_OVERLOAD_ERR",
    INTERNAL_ERR: "INTERNAL_ERR",
    UNKNOWN_CMD_ERR: "UNKNOWN_CMD_ERR",
    INVALID_KEY_ERR: "INVALID_KEY_ERR",
    INVALID_VAL_ERR: "INVALID_VAL_ERR",
}
