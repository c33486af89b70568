"""A server that lies: a whole node that knows the secret, and says what no sound one says.

    KV_CLUSTER_SECRET=... python -m tests.fuzz.liar MODE SEED PORT SERVERS_FILE [options of a node]

MODE is `unsound`: beside what the node itself says, frames, messages and bytes that have something out of its range. Or
`lies`: also those in which everything is in its range, and the node's own words with something changed.
"""

import os
import random
import sys
from collections.abc import Callable
from typing import Final

from app.cluster.view import to_message
from app.config import options
from app.node import Node
from app.peers.frames import HEADER_BYTES, pack_header
from app.peers.links import Link
from app.process import run
from proto_gen import cluster_pb2 as pb
from tests.fuzz import said
from tests.fuzz.choices import Drawn, is_so

PAUSE_S: Final = 0.004
_CHANGED_ONE_IN: Final = 8
MODES: Final = ("unsound", "lies")


class Liar:
    """`lies(node)` has it begin."""

    def __init__(self, mode: str, seed: int) -> None:
        self._is_unsound = mode == "unsound"
        self._choices = Drawn(random.Random(seed))
        self._node: Node
        self._put: Callable[[Link, bytes, bytes], bool] = Link.put

    def begin(self, node: Node) -> None:
        """From now on."""
        self._node = node
        if not self._is_unsound:
            liar, put, post = self, self._put, node.membership._post

            def put_changed(link: Link, header: bytes, body: bytes) -> bool:
                if is_so(liar._choices, _CHANGED_ONE_IN):
                    body = said.mutated(liar._choices, header[HEADER_BYTES:] + body)
                    header = pack_header(len(body), header[4])
                return put(link, header, body)

            def post_changed(peer: str, body: bytes) -> None:
                post(peer, said.mutated(liar._choices, body) if is_so(liar._choices, _CHANGED_ONE_IN) else body)

            Link.put = put_changed  # type: ignore[method-assign]
            node.membership._post = post_changed  # type: ignore[method-assign]
        node.loop.spawn(self._talk)

    def _talk(self) -> None:
        while True:
            self._node.loop.sleep(PAUSE_S)
            for peer in self._node.peers.names:
                truth = self._truth(peer)
                self._say_frame(peer, truth)
                self._say_message(peer, truth)

    def _truth(self, peer: str) -> said.Truth:
        core = self._node.membership.core
        view = core.view
        now_us = round(self._node.loop.now() * 1e6)
        header = pb.ClusterMessage(incarnation=core.incarnation, to_incarnation=core.contact(peer)[0], stamp_us=now_us)
        header.echo_us = core._state.of(peer).stamp_us
        seqs = [position[1] for position in self._node.replication._shared.positions if position and position[1]]
        numbers = [core.incarnation, core.epoch, now_us, *seqs[:8]]
        if view is not None:
            header.cluster_id, header.epoch, header.nonce = view.key
            numbers += view.incarnations.values()
        servers = (self._node.peers.me, *self._node.peers.names)
        message = to_message(view) if view is not None else None
        clock_s = self._node.loop.now()
        return said.Truth(servers, numbers, clock_s, message, header, strangers=False)

    def _say_frame(self, peer: str, truth: said.Truth) -> None:
        link = self._node.links.up.get(peer)
        if link is None:
            return
        # Each ends the link, and the rest is to be tried, too.
        if self._is_unsound and not is_so(self._choices, 50):
            return
        kind, body = said.frame(self._choices, truth)
        if said.is_sound_frame(kind, body) and self._is_unsound:
            return
        if is_so(self._choices, 100):
            self._put(link, b"", self._choices.raw(64))  # bytes that are no frame
        else:
            self._put(link, pack_header(len(body), kind), body)

    def _say_message(self, peer: str, truth: said.Truth) -> None:
        message = said.message(self._choices, truth)
        if said.is_sound(message) and self._is_unsound:
            return
        membership = self._node.membership
        if is_so(self._choices, 10):
            membership._send(peer, self._choices.raw(300))  # without a seal, or a wrong one
        else:
            type(membership)._post(membership, peer, message.SerializeToString())


def main() -> int:
    mode, seed, *arguments = sys.argv[1:]
    liar = Liar(mode, int(seed))
    return run(options.parse(arguments, os.environ), liar.begin)


if __name__ == "__main__":
    sys.exit(main())
