from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NONE: _ClassVar[Kind]
    HELLO: _ClassVar[Kind]
    ACK: _ClassVar[Kind]
    PING: _ClassVar[Kind]
    PING_REQ: _ClassVar[Kind]
    VOUCH: _ClassVar[Kind]
    NACK: _ClassVar[Kind]
    SUSPECT: _ClassVar[Kind]
    REFUTE: _ClassVar[Kind]
    ASK: _ClassVar[Kind]
    GRANT: _ClassVar[Kind]
    VIEW: _ClassVar[Kind]
    PREPARE: _ClassVar[Kind]
    PROMISE: _ClassVar[Kind]
    ACCEPT: _ClassVar[Kind]
    ACCEPTED: _ClassVar[Kind]
    REJECT: _ClassVar[Kind]
NONE: Kind
HELLO: Kind
ACK: Kind
PING: Kind
PING_REQ: Kind
VOUCH: Kind
NACK: Kind
SUSPECT: Kind
REFUTE: Kind
ASK: Kind
GRANT: Kind
VIEW: Kind
PREPARE: Kind
PROMISE: Kind
ACCEPT: Kind
ACCEPTED: Kind
REJECT: Kind

class Member(_message.Message):
    __slots__ = ("address", "incarnation", "leaving", "is_removed")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    IS_REMOVED_FIELD_NUMBER: _ClassVar[int]
    address: str
    incarnation: int
    leaving: bool
    is_removed: bool
    def __init__(self, address: _Optional[str] = ..., incarnation: _Optional[int] = ..., leaving: _Optional[bool] = ..., is_removed: _Optional[bool] = ...) -> None: ...

class View(_message.Message):
    __slots__ = ("cluster_id", "epoch", "members", "primaries", "backups", "homes", "cause", "nonce", "is_forced", "forced_from_cluster_id", "forced_from_epoch", "founders", "others", "untried")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    PRIMARIES_FIELD_NUMBER: _ClassVar[int]
    BACKUPS_FIELD_NUMBER: _ClassVar[int]
    HOMES_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    IS_FORCED_FIELD_NUMBER: _ClassVar[int]
    FORCED_FROM_CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    FORCED_FROM_EPOCH_FIELD_NUMBER: _ClassVar[int]
    FOUNDERS_FIELD_NUMBER: _ClassVar[int]
    OTHERS_FIELD_NUMBER: _ClassVar[int]
    UNTRIED_FIELD_NUMBER: _ClassVar[int]
    cluster_id: int
    epoch: int
    members: _containers.RepeatedCompositeFieldContainer[Member]
    primaries: bytes
    backups: bytes
    homes: bytes
    cause: str
    nonce: int
    is_forced: bool
    forced_from_cluster_id: int
    forced_from_epoch: int
    founders: _containers.RepeatedScalarFieldContainer[str]
    others: _containers.RepeatedScalarFieldContainer[str]
    untried: int
    def __init__(self, cluster_id: _Optional[int] = ..., epoch: _Optional[int] = ..., members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., primaries: _Optional[bytes] = ..., backups: _Optional[bytes] = ..., homes: _Optional[bytes] = ..., cause: _Optional[str] = ..., nonce: _Optional[int] = ..., is_forced: _Optional[bool] = ..., forced_from_cluster_id: _Optional[int] = ..., forced_from_epoch: _Optional[int] = ..., founders: _Optional[_Iterable[str]] = ..., others: _Optional[_Iterable[str]] = ..., untried: _Optional[int] = ...) -> None: ...

class Death(_message.Message):
    __slots__ = ("address", "incarnation")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    address: str
    incarnation: int
    def __init__(self, address: _Optional[str] = ..., incarnation: _Optional[int] = ...) -> None: ...

class Synced(_message.Message):
    __slots__ = ("address", "slots")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    address: str
    slots: bytes
    def __init__(self, address: _Optional[str] = ..., slots: _Optional[bytes] = ...) -> None: ...

class ClusterMessage(_message.Message):
    __slots__ = ("kind", "incarnation", "to_incarnation", "stamp_us", "echo_us", "cluster_id", "epoch", "nonce", "supports", "support_withdrawn", "deaths", "target", "target_incarnation", "number", "ballot", "accepted_ballot", "view", "span_us", "blocked", "settled", "leaving", "synced", "lacks", "lost", "node_protocol", "sender", "joins")
    KIND_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    TO_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    STAMP_US_FIELD_NUMBER: _ClassVar[int]
    ECHO_US_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    SUPPORTS_FIELD_NUMBER: _ClassVar[int]
    SUPPORT_WITHDRAWN_FIELD_NUMBER: _ClassVar[int]
    DEATHS_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    TARGET_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_BALLOT_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    SPAN_US_FIELD_NUMBER: _ClassVar[int]
    BLOCKED_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    SYNCED_FIELD_NUMBER: _ClassVar[int]
    LACKS_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    NODE_PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    JOINS_FIELD_NUMBER: _ClassVar[int]
    kind: Kind
    incarnation: int
    to_incarnation: int
    stamp_us: int
    echo_us: int
    cluster_id: int
    epoch: int
    nonce: int
    supports: bool
    support_withdrawn: bool
    deaths: _containers.RepeatedCompositeFieldContainer[Death]
    target: str
    target_incarnation: int
    number: int
    ballot: int
    accepted_ballot: int
    view: View
    span_us: int
    blocked: bytes
    settled: bool
    leaving: bool
    synced: _containers.RepeatedCompositeFieldContainer[Synced]
    lacks: _containers.RepeatedScalarFieldContainer[str]
    lost: bytes
    node_protocol: int
    sender: str
    joins: bool
    def __init__(self, kind: _Optional[_Union[Kind, str]] = ..., incarnation: _Optional[int] = ..., to_incarnation: _Optional[int] = ..., stamp_us: _Optional[int] = ..., echo_us: _Optional[int] = ..., cluster_id: _Optional[int] = ..., epoch: _Optional[int] = ..., nonce: _Optional[int] = ..., supports: _Optional[bool] = ..., support_withdrawn: _Optional[bool] = ..., deaths: _Optional[_Iterable[_Union[Death, _Mapping]]] = ..., target: _Optional[str] = ..., target_incarnation: _Optional[int] = ..., number: _Optional[int] = ..., ballot: _Optional[int] = ..., accepted_ballot: _Optional[int] = ..., view: _Optional[_Union[View, _Mapping]] = ..., span_us: _Optional[int] = ..., blocked: _Optional[bytes] = ..., settled: _Optional[bool] = ..., leaving: _Optional[bool] = ..., synced: _Optional[_Iterable[_Union[Synced, _Mapping]]] = ..., lacks: _Optional[_Iterable[str]] = ..., lost: _Optional[bytes] = ..., node_protocol: _Optional[int] = ..., sender: _Optional[str] = ..., joins: _Optional[bool] = ...) -> None: ...
