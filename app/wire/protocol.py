"""The protocol's numbers: commands, error codes, message types and limits, spelled as clients know them.

Plain integers, not enums: these are compared on every request, and an IntEnum comparison costs several times
that of an int. Names for people (logs, counters, tools) come from the two tables at the end.
"""

from typing import Final

# Msg.type. A missing type is 0. 16 and above are the nodes' own.
TYPE_REQUEST: Final = 0
TYPE_RESPONSE: Final = 1
TYPE_ACK: Final = 2
TYPE_CLUSTER: Final = 16  # between nodes, about membership

# KVRequest.command.
PUT: Final = 1
GET: Final = 2
REMOVE: Final = 3
SHUTDOWN: Final = 4
WIPEOUT: Final = 5
IS_ALIVE: Final = 6
GET_PID: Final = 7
GET_MEMBERSHIP_CNT: Final = 8
# 32 and above are this project's own, unknown to other servers of this protocol.
STATUS: Final = 32  # the node's view of the cluster, as JSON in `value`; changes nothing
SLOWLOG: Final = 33  # the node's slow requests, newest first, likewise
VITALS: Final = 34  # the node's process in numbers, likewise

# KVResponse.errCode.
NO_ERR: Final = 0
KEY_DNE_ERR: Final = 1
NO_SPC_ERR: Final = 2
SYS_OVERLOAD_ERR: Final = 3
INTERNAL_ERR: Final = 4
UNKNOWN_CMD_ERR: Final = 5
INVALID_KEY_ERR: Final = 6
INVALID_VAL_ERR: Final = 7

DATAGRAM_MAX_BYTES: Final = 16 * 1024
MESSAGE_ID_MAX_BYTES: Final = 64
KEY_MAX_BYTES: Final = 32
VALUE_MAX_BYTES: Final = 10_000

# A node must be able to say whatever it stores in one datagram: envelope and response fields take at most
# 64 (messageID) + 9 (checkSum) + 11 (type) + 40 (payload framing, errCode, version) bytes besides the value.
assert VALUE_MAX_BYTES + MESSAGE_ID_MAX_BYTES + 60 <= DATAGRAM_MAX_BYTES

SLOT_COUNT: Final = 256  # slot of a key = crc32(key) & 0xFF

# The most servers in a cluster, and in the servers file. All of them must fit in one datagram of a view, and in the
# answer to STATUS, which names each by one character. Raising it means finding room in both.
SERVERS_MAX: Final = 64

# How STATUS names a member in one character: by its place in the list, with URL-safe base64's digits.
PLACE_DIGITS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
PLACE_NOBODY: Final = "."

# How the clients in the field retry: after each of these silences (ms) the same datagram goes out again; the
# last one ends in giving up. The last try leaves 4.45 s after the first.
CLIENT_TIMEOUTS_MS: Final = (150, 450, 1350, 2500, 2000)

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
