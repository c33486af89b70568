from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Msg(_message.Message):
    __slots__ = ("messageID", "payload", "checkSum", "type")
    MESSAGEID_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    messageID: bytes
    payload: bytes
    checkSum: int
    type: int
    def __init__(self, messageID: _Optional[bytes] = ..., payload: _Optional[bytes] = ..., checkSum: _Optional[int] = ..., type: _Optional[int] = ...) -> None: ...
