from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class KVRequest(_message.Message):
    __slots__ = ("command", "key", "value", "version")
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    command: int
    key: bytes
    value: bytes
    version: int
    def __init__(self, command: _Optional[int] = ..., key: _Optional[bytes] = ..., value: _Optional[bytes] = ..., version: _Optional[int] = ...) -> None: ...

class KVResponse(_message.Message):
    __slots__ = ("errCode", "value", "pid", "version", "overloadWaitTime", "membershipCount")
    ERRCODE_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    OVERLOADWAITTIME_FIELD_NUMBER: _ClassVar[int]
    MEMBERSHIPCOUNT_FIELD_NUMBER: _ClassVar[int]
    errCode: int
    value: bytes
    pid: int
    version: int
    overloadWaitTime: int
    membershipCount: int
    def __init__(self, errCode: _Optional[int] = ..., value: _Optional[bytes] = ..., pid: _Optional[int] = ..., version: _Optional[int] = ..., overloadWaitTime: _Optional[int] = ..., membershipCount: _Optional[int] = ...) -> None: ...
