"""What a client puts into a datagram and reads out of one.

Apart from the node's own codec: a client checks other things (is this an answer, and to what), needs
nothing of the server, and a tool that tests the server must not share its mistakes.
"""

from typing import Final
from zlib import crc32

from google.protobuf.message import DecodeError

from app.wire.protocol import TYPE_ACK, TYPE_REQUEST, TYPE_RESPONSE
from proto_gen.key_value_pb2 import KVRequest, KVResponse
from proto_gen.message_pb2 import Msg

# Why a datagram is not an answer; also the names under which clients count what they ignored.
UNPARSABLE: Final = "unparsable"
WRONG_CHECKSUM: Final = "wrong_checksum"
NOT_A_RESPONSE: Final = "not_a_response"


class NotAnAnswer(Exception):
    """A datagram that is no answer to anything; `reason` says why. The receiver ignores and counts it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def encode_request(message_id: bytes, request: KVRequest) -> bytes:
    """The datagram that carries `request`. A retry sends the same datagram again."""
    payload = request.SerializeToString()
    return Msg(
        messageID=message_id, payload=payload, checkSum=crc32(payload, crc32(message_id)), type=TYPE_REQUEST
    ).SerializeToString()


def encode_ack(message_id: bytes) -> bytes:
    """The datagram that tells the node: this answer has arrived, its memory of it may go. Never answered."""
    return Msg(messageID=message_id, payload=b"", checkSum=crc32(message_id), type=TYPE_ACK).SerializeToString()


def decode_response(datagram: bytes) -> tuple[bytes, KVResponse]:
    """The messageID and the response that a datagram carries.

    NotAnAnswer when it does not parse, its checksum is wrong, or its type is not that of a response. A
    missing field counts as zero or empty, so what is returned has a messageID of any length, none included.
    """
    try:
        message = Msg.FromString(datagram)
    except DecodeError:
        raise NotAnAnswer(UNPARSABLE) from None
    message_id, payload = message.messageID, message.payload
    if message.checkSum != crc32(payload, crc32(message_id)):
        raise NotAnAnswer(WRONG_CHECKSUM)
    if message.type != TYPE_RESPONSE:
        raise NotAnAnswer(NOT_A_RESPONSE)
    try:
        return message_id, KVResponse.FromString(payload)
    except DecodeError:
        raise NotAnAnswer(UNPARSABLE) from None
