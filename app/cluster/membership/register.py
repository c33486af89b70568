"""Where it is decided which view comes next: the one interface, for whatever decides it.

A register holds the view that a cluster goes by. It takes another in its place only from one who goes by the one that
it holds, one at a time: so views are one chain, and no two of them follow the same one. The coordinator of a view says
what the next one is to be (coordinator.py); the register says whether it is this node's turn to propose it, until when
nobody else's proposal is taken (the leader lease: leases.py), and in the end what was chosen.

Built in is one decree of Paxos for each epoch, among the members of the view (decree.py). The other is a register
outside, which all nodes share (shared_register.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

from app.cluster.membership.leases import Grantor
from app.cluster.view import View
from proto_gen import cluster_pb2 as pb

Handler: TypeAlias = Callable[[str, pb.ClusterMessage], None]


class Proposer(Protocol):
    """Who has something to propose: the node's Coordinator."""

    grantor: Grantor | None  # what it keeps while it is the coordinator of the view
    renew: bool  # it is to propose a view even if nothing else has changed

    def value(self, nonce: int, *, is_support_over: bool) -> View | None:
        """The view to propose, with this nonce; None: not yet. `is_support_over`: all leases of the present view are
        over."""

    def chosen(self, view: View) -> None:
        """This view follows the one we go by: it is to be installed, and told to others."""

    def holds(self, view: View) -> None:
        """The register holds this view, whoever wrote it: it is to be installed."""


class Register(ABC):
    """One node's way to what decides."""

    @abstractmethod
    def entered(self) -> None:
        """A view was installed, or we begin anew as a fresh incarnation: what comes next is decided anew."""

    @property
    @abstractmethod
    def is_busy(self) -> bool:
        """Whether a proposal of ours is under way."""

    @abstractmethod
    def advance(self) -> None:
        """Go on with the proposal that is under way; called after every step."""

    @abstractmethod
    def may_start(self) -> bool:
        """Whether it is our turn to propose."""

    @abstractmethod
    def start(self) -> None:
        """Begin a proposal."""

    @abstractmethod
    def leader_lease_end(self, grantor: Grantor) -> float:
        """Until when this node, the coordinator, may grant leases and serve, by its clock: nobody's proposal to replace
        its view is taken before. -inf: it may not; inf: without end."""

    @abstractmethod
    def support_left_s(self) -> float:
        """For how long what this node has promised its coordinator still counts, by its clock.

        As the coordinator itself: how long the leases run that it has granted. As a newcomer: how long what the process
        before it has promised may count.
        """

    @abstractmethod
    def handlers(self) -> Mapping[int, Handler]:
        """What peers say to each other for this, by kind of message."""
