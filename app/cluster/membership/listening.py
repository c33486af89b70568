"""Whom this node listens to: those who belong, those who did until a moment ago, and guests (belonging.py).

There is a link to each of them, and the shell is told who they are.
"""

from collections.abc import Iterable
from typing import Final

from app.cluster.events import ServersKnown
from app.cluster.membership import timing
from app.cluster.membership.dialling import Dialler
from app.cluster.membership.state import NodeState
from app.cluster.view import MEMBERS_MAX, View

# Servers in none of our lists that are listened to at a time because they were introduced: each of them is dialled.
GUESTS_MAX: Final = 16


class Listening:
    """Who comes and goes among those that NodeState.servers names."""

    def __init__(self, state: NodeState, dialler: Dialler) -> None:
        self._state = state
        self._dialler = dialler
        self._told = frozenset(state.config.servers)

    def want_links(self) -> None:
        """Have a link to each, and tell the shell if they are others than before."""
        state = self._state
        lists_servers = state.view is not None and state.view.lists_servers
        # Into a shared register anybody may have written the first view, who is in no file either.
        knows_all = lists_servers or state.config.joins or state.config.shared_register
        servers = frozenset(state.servers if knows_all else (*state.config.servers, *state.guests))
        if servers != self._told:
            self._told = servers
            state.effects.append(ServersKnown(tuple(server for server in state.servers if server in servers)))
        self._dialler.want(state.servers)

    def note_parted(self, before: View | None, view: View) -> None:
        """Go on, for a while, listening to whoever belongs no more by this view."""
        state = self._state
        is_same_cluster = before is not None and before.cluster_id == view.cluster_id
        parted = before.servers if before is not None and is_same_cluster and view.lists_servers else ()
        state.parted = {server: since for server, since in state.parted.items() if server not in view.servers}
        state.parted.update((server, state.awake_s) for server in parted if server not in view.servers)
        state.guests = {server: since for server, since in state.guests.items() if server not in view.servers}

    def introduce(self, server: str) -> None:
        """A stranger knows the secret: it is a guest, if there are not too many."""
        if len(self._state.guests) < GUESTS_MAX:
            self.make_guests((server,))

    def make_guests(self, servers: Iterable[str]) -> None:
        """Listen to these for a while."""
        state = self._state
        for server in servers:
            if server != state.address and (server in state.guests or len(state.guests) < MEMBERS_MAX):
                state.guests[server] = state.awake_s
        state.note_servers()
        self.want_links()

    def forget_guests(self) -> bool:
        """Listen no more to those whose while is over; whether there were some who could be forgotten."""
        state = self._state
        if not state.parted and not state.guests:
            return False
        since = state.awake_s - timing.GUEST_S
        state.parted = {server: at for server, at in state.parted.items() if at > since}
        state.guests = {server: at for server, at in state.guests.items() if at > since}
        state.note_servers()
        self.want_links()
        return True
