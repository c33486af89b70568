"""Lines of the node that no seed of CI's set runs, or not every such set, each with its reason. See lines.py."""

from typing import Final

MALFORMED: Final = "what no sound peer sends: the unit tests of the module do"
PEOPLE: Final = "for people and tools, who ask seldom or not at all here: tests/http, tests/peers and tests/requests do"
IPV6: Final = "IPv6: simulated machines have IPv4 addresses; tests/peers/test_addresses.py has the rest"
FORCED: Final = "what an operator orders, which test_scenarios.py and test_sim.py do"
FAULT: Final = "a fault of the node itself, which ends a simulated run at once: tests/requests and tests/test_loop.py"
CLOSED: Final = (
    "--allow and --admin-allow, which simulated nodes go without: tests/front/test_access.py and tests/requests"
)
RATE: Final = "--answer-rate, which simulated clients do not come to: tests/front and tests/requests"
RARE: Final = "a rare turn of events: not in each set of a few dozen seeds, but in longer runs"
UNIT: Final = "no run of 125 other seeds came to it either: tests of the module do, or a scenario of tests/sim"
UNSEEN: Final = "neither a seed nor another test has come to it"
AHEAD: Final = "clocks and numbers far ahead, which no sound node has: tests/cluster/membership/test_far_ahead.py"
ORDERED: Final = (
    "orders about servers: tests/cluster/membership, tests/integration/test_servers.py, tests/sim/test_belonging.py"
)
REGISTER: Final = "with a register outside, which has seeds of its own: tests/sim/test_register.py"
SECRETS: Final = "another secret while it runs: tests/peers and tests/test_reload.py"
LARGE: Final = "more at once than a simulated cluster holds: tests/peers/test_links_by_hand.py, test_transfer.py"
SYSTEM: Final = "what the system says on no path that is simulated: tests/peers/test_links.py"

# By file, by reason, as the source has them.
NOT_RUN: Final[dict[str, dict[str, list[str]]]] = {
    "app/requests/commands.py": {
        RARE: [
            "super().__init__()",
            "self.reply = reply",
            "return self._turn.routes[slot] == SELF and (command == GET or self._followed[slot] is None)",
            "raise",
            'self._drop("unexpected_type")',
            "return self._answer.refusal(request, command, message_id, id_crc, self._mutations.wait_ms)",
            "return None",
            "raise Shutdown(reply)",
            "return False",
            "with suppress(DecodeError):",
            "if len(data) <= DATAGRAM_MAX_BYTES:",
            "msg = parse_msg(data)",
            "message_id, payload = msg.messageID, msg.payload",
            "if msg.type == TYPE_CLUSTER and self._check(msg, message_id, payload, crc32(message_id)) is None:",
            "self._hand_to_cluster(request, payload)",
            "return",
            "try:",
            "if msg.type != TYPE_REQUEST:",
            "command = parse_request(msg.payload).command",
            "return self._answer.code(",
        ],
        FAULT: [
            "self._loop.fail(error)",
            '_faults.exception("request_failed", error)',
            "return self._failed(data)",
        ],
        CLOSED: [
            'self._drop("admin_not_allowed")',
            'self._drop("not_allowed")',
        ],
        UNIT: [
            "return self._broken(error, bytes(buffer[start:end]))",
            "if isinstance(error, AssertionError):",
        ],
    },
    "app/requests/answers.py": {
        RATE: [
            "if len(reply) <= SMALL_SHARE * asked_bytes:",
            "return reply",
            "wait_s = self._rate.wait_s(host)",
            "if wait_s <= 0.0:",
            "self._counters.over_rate += 1",
            '_faults.warning("over_rate", sender=show_host(host))',
            "return refused(reply, ceil(wait_s * 1000))",
            "reply = self.within_rate(host_of(client), reply, len(request.datagram))",
        ],
        UNIT: [
            "return None",
        ],
    },
    "app/requests/forwarding.py": {
        RARE: [
            "return self._answers.refusal(request, command, message_id, id_crc, FULL_WAIT_MS)",
            "return self._answers.refusal(request, command, message_id, id_crc, _HOPS_WAIT_MS)",
            "return len(self._requests)",
            "return",
        ],
        MALFORMED: [
            "continue",
        ],
    },
    "app/requests/resumed.py": {
        RARE: [
            "if isinstance(kept, InFlight):",
            "self._forwarding.give_up(kept)",
            "self._replicator.give_up(kept)",
            "continue",
        ],
    },
    "app/requests/waiting.py": {
        RARE: [
            "self.full = True",
        ],
    },
    "app/requests/relayed.py": {
        MALFORMED: [
            'self._counters.drops["unparsable"] += 1',
        ],
    },
    "app/requests/reports.py": {
        PEOPLE: [
            "if lacking or reasons:",
            "(lacking or reasons).pop()",
            "continue",
            'assert len(members) > len(status.members), f"{len(members)} members make {len(text)} bytes"',
            "members.pop()",
            'fields["cut"] = True',
        ],
        UNIT: [
            "absent_s.pop()",
        ],
    },
    "app/requests/replicator.py": {
        RARE: [
            "if replication.remembers(message_id):",
            "return NO_ANSWER",
            "return self._refused(_CLOSED_WAIT_MS)",
            "return self._refused(FULL_WAIT_MS)",
            "self._links.sever(peer)",
            "replication = self._replication",
            "faults = {f\"copies_fault_{reason.replace(' ', '_')}\": n for reason, n in sorted(replication.faults.items())}",
            "return faults | {",
            '_log.error("copies_lost", slots=slots_of(slots), epoch=epoch)',
            "self._membership.copies_lost(slots, epoch)",
        ],
        UNSEEN: [
            '_log.error("slots_start_empty", slots=slots_of(out.emptied))',
        ],
    },
    "app/requests/turn.py": {
        RARE: [
            "self._end()",
        ],
    },
    "app/peers/addresses.py": {
        RARE: [
            'return self._addresses.get(peer, "")',
        ],
        IPV6: [
            "if family_of(address) == socket.AF_INET:",
            "host = _MAPPED + socket.inet_aton(address)",
            'target: tuple[str | int, ...] = (f"::ffff:{address}", port_number, 0, 0)',
            "scope = 0",
            "found = socket.getaddrinfo(",
            "_, _, flow, scope = found[0][4]  # type: ignore[misc]  # of AF_INET6, as asked for",
            "target = (address, port_number, int(flow), int(scope))",
            "host = _host_bytes(address)",
            "return target, _SOCKADDR_IN6.pack(socket.AF_INET6, port, 0, host, scope)",
            "return socket.inet_pton(socket.AF_INET6, bare)",
        ],
    },
    "app/peers/datagram_auth.py": {
        AHEAD: [
            "self.incarnation += 1 + self._draw()",
            "known.incarnation = known.received = known.taken = 0",
        ],
        MALFORMED: [
            'raise BadDatagram("unknown_sender")',
            'raise BadDatagram("malformed")',
            'raise BadDatagram("wrong_secret")',
        ],
        SECRETS: [
            "return True",
            "self._macs = [Mac(secret, _KEY_LABEL) for secret in secrets]",
            "self._is_new_used = is_new_used",
            "for known in (*self._peers.values(), *self._former.values()):",
            "known.uses = 0",
            "del self._former[next(iter(self._former))]",
        ],
    },
    "app/peers/frames.py": {
        MALFORMED: [
            'raise BadFrame(f"a frame of kind {data[4 - 1 - at]} and {_unpack_header(data, -1 - at)[0]} bytes")',
            "return frames, -1 - at",
            'raise BadFrame(f"a clock that shows {seconds}")',
        ],
    },
    "app/peers/handshake.py": {
        MALFORMED: [
            'raise Refused("out_of_range")',
            'raise Refused("other_protocol")',
            'raise Refused("no_secret" if self._flags else "secret_needed")',
            'raise Refused("wrong_secret")',
        ],
        SECRETS: [
            "assert secrets",
            "assert self._macs",
            "self._macs = [Mac(secret, _KEY_LABEL) for secret in secrets]",
        ],
    },
    "app/peers/connecting.py": {
        AHEAD: [
            'raise Refused("other_address")',
        ],
        RARE: [
            "self._connect(peer, deadline_s).close()",
        ],
        SYSTEM: [
            'raise OSError(errno.EHOSTUNREACH, "unknown, without an address, or of another address family")',
            "raise OSError(code, os.strerror(code))",
            'raise ConnectionAbortedError(errno.ECONNABORTED, "connected to itself")',
            'raise ConnectionAbortedError(errno.ECONNABORTED, "the socket\'s buffer is full")',
        ],
        MALFORMED: [
            'raise Refused("misdirected")',
            'raise Refused("unknown_peer")',
        ],
    },
    "app/peers/frame_queue.py": {
        RARE: [
            "queues.full += 1",
            "return False",
            "queues.full += len(bodies)",
        ],
    },
    "app/peers/links.py": {
        LARGE: [
            "count = size = 0",
            "while size < _PIECE_BYTES:",
            "size += len(parts[count])",
            "count += 1",
            "parts, self.parts = parts[:count], parts[count:]",
        ],
        RARE: [
            "return  # the node stops: it is about to be told",
            "self.close(peer)",
            '_faults.debug("dial_failed", peer=peer, error=error)',
            "sent = 0",
            "link = self.up.get(peer)",
            "return peer in self.up",
            "self._down(link)",
            "self._count_refused(refused.reason, peer, is_fault=refused.reason not in _TOLD_ELSEWHERE)",
            "return",
            "continue",
            "self._give_way(next(iter(self._pending)))",
            "_abandon(task, self._pending.pop(task))",
            'self._count_refused("too_many", "")',
            "return fields | {",
            "self._loop.run_callback(_abandon, task, sock)",
            "task.cancel()",
            "sock.close()",
            "connected.sock.close()",
            '_faults.error("accept_failed", error=error)',
            "self._acceptor.stop()",
            "self._pause.start(_ACCEPT_PAUSE_S, self._acceptor.start, self._accept)",
        ],
        SYSTEM: [
            "return link.queued if link else 0",
        ],
        MALFORMED: [
            "self._end_for(link, str(fault))",
            'self._count_refused("bad_frame", f"{link.peer}: {fault}")',
        ],
        PEOPLE: [
            'fields = {f"links_refused_{reason}": count for reason, count in sorted(self.refused.items())}',
        ],
        UNIT: [
            "self._handler.link_event(LinkUp(peer))",
        ],
        SECRETS: [
            "self._connector.handshake.take(secrets)",
        ],
    },
    "app/peers/lookups.py": {
        UNIT: [
            "return  # meanwhile it was no server",
            "self._doubts.pop(peer).timer.stop()",
        ],
    },
    "app/peers/membership.py": {
        MALFORMED: [
            "return False",
        ],
        FORCED: [
            'objection = ""',
            "if self._loop.now() - self._founded_s >= FOUND_RETRIES_S:",
            "objection = self.core.objection()[:_WHY_NOT_MAX_BYTES]",
            "if not objection:",
            "self._founded_s = self._loop.now()",
            "self.take(FoundRequested())",
            "view = self.core.view",
            "fields = {",
            'return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()',
        ],
        RARE: [
            "if self._auth is not None:",
            "order, why_not = None, str(fault)",
            "fields = None",
            'cause = "their lines are of another IP version than this node\'s"',
            '_log.warning("unreachable", peers=" ".join(self._peers.unreachable), cause=cause)',
            "return",
            "self.send_errors += 1",
            "return fields | {",
            "self.take(CopiesLost(slots, epoch))",
        ],
        FAULT: [
            "self._loop.fail(error)",
        ],
        PEOPLE: [
            "core = self.core",
            'fields = {f"cluster_refused_{reason}": count for reason, count in sorted(self.refused.items())}',
            "dropped = core.status().dropped",
            "fields |= {f\"cluster_dropped_{reason.replace(' ', '_')}\": count for reason, count in sorted(dropped.items())}",
        ],
        REGISTER: [
            "self._register.start(self.take)",
            "self._register.stop()",
            "assert self._register is not None",
            "self._register.ask(effect)",
        ],
        SECRETS: [
            "self._auth.take_secrets(secrets, is_new_used=is_new_used)",
        ],
        ORDERED: [
            'raise ValueError("say which server to add or to remove")',
            'raise ValueError(f"a server\'s name has at most {ADDRESS_MAX_BYTES} bytes, its port included")',
            "raise ValueError(f\"{server} isn't one machine's address\")",
        ],
    },
    "app/cluster/membership/agreement.py": {
        RARE: [
            "return False",
        ],
    },
    "app/cluster/membership/bootstrap.py": {
        AHEAD: [
            "return state.of(member.address).is_dead(member.incarnation)",
        ],
        RARE: [
            "return all(self._is_gone(member) for member in view.members)",
            "state = self._state",
            "if member.address == state.address:",
            "return member.incarnation < state.incarnation",
            "return _is_made_of(other, mine)",
        ],
    },
    "app/cluster/membership/coordinator.py": {
        RARE: [
            "since = max(state.of(coordinator).died_at, state.installed_at)",
            "return state.now >= since + timing.LAPSE_S",
            "return False",
            "return None",
        ],
        UNIT: [
            "return True",
            "if all(grantor.is_lapsed(node, state.now) for node in self.lacks.going):",
            "grantor.denied.add(state.address)",
            "self._lease.drop()",
        ],
        FORCED: [
            "return replace(following, is_forced=False)  # it has as many as a cluster needs",
        ],
        REGISTER: [
            "self.shared.tick()",
            "del changes.gone[address]",
            'certain = {"died", "was restarted", "left"}',
            "silent = {address for address, why in changes.gone.items() if why not in certain}",
            "staying = [address for address in view.addresses if address not in changes.gone]",
            "if not silent or (self._state.config.replicas == 1 and has_quorum(view.addresses, staying, ())):",
            "return {}  # one copy is one",
            "last: set[str] = set()",
            "others = dict.fromkeys(silent, 0)",
            "for slot in range(len(view.primaries)):",
            "holders = view.holders(slot)",
            "if any(node not in changes.gone for node in holders):",
            "for node in silent.intersection(holders):",
            "others[node] |= 1 << slot",
            "last |= silent.intersection(holders)",
            "return {node: others[node] for node in last}",
            'return "is removed by force"',
            "self._install(view)",
        ],
    },
    "app/cluster/membership/decree.py": {
        RARE: [
            "return self._lease.until <= state.now",
            "proposal = self._proposal",
            "if not self._is_ballot(message) or proposal is None or message.ballot != proposal.ballot:",
            "if proposal.ballot < message.accepted_ballot and self._has_room(message.accepted_ballot):",
            "self._give_way(message.accepted_ballot)",
            "state.post(peer, pb.REJECT, ballot=message.ballot, accepted_ballot=self._acceptor.promised)",
            "proposal.found = None",
            "return False",
            "return",
            "state.post(peer, pb.REJECT, ballot=message.ballot)",
            "self._give_way(self._acceptor.promised)",
            "self._ballot_seen = max(self._ballot_seen, ballot)",
            "self._proposal = None",
            "self._retry_at = self._state.now + self._state.rng.uniform(0.2, 1) * timing.ROUND_BACKOFF_S",
            "return None",
        ],
        MALFORMED: [
            'raise BadView(f"epoch {view.epoch} of {view.cluster_id} does not follow ours")',
            'state.drop("bad ballot")',
            'state.drop("bad view")',
            'state.log(f"bad view from {peer}: {fault}", "warning")',
        ],
        UNIT: [
            "return True",
        ],
    },
    "app/cluster/membership/core.py": {
        AHEAD: [
            'state.log("the last epoch: what this node holds is given up, and a new cluster founded", "error")',
            "self._start_anew(None)",
            "since = max(self._lease.until, state.installed_at)",
            "return state.is_member and view.has(state.address, state.incarnation) and state.now - since > timing.STUCK_S",
            "known.note_overtaken(incarnation, state.now)",
            "state.note_dead()",
        ],
        FORCED: [
            "self._found_by_force()",
            "state = self._state",
            "if state.leaving:",
            'return "this node is leaving"',
            "if state.is_member:",
            'return "the cluster goes on: this node\'s lease runs" if self._lease.until > state.now else ""',
            "if state.view is not None and not state.config.shared_register:",
            "return f\"this node is no member of the cluster that it knows: ask one of {' '.join(state.view.addresses)}\"",
            'return ""',
            "if self.objection():",
            "before = state.view",
            "view = forced_view(state, self._detector, self._bootstrap)",
            "empty = emptied(before, view)",
            "state.log(",
            "for node in state.others():",
            "state.post(node, pb.VIEW, view=to_message(view))",
            "if self._lease.until > state.now:",
            'state.drop("lease runs")',
        ],
        RARE: [
            "before = None  # nothing is known of what came in between",
            "return",
            "self._final_view_to.clear()",
            "assert state.view is not None",
            "self._install(view)",
            'state.drop("stale view")',
            "elif state.is_member:",
            "self._start_anew(view)",
            "self._detector.refused(peer, incarnation)",
            "self._heartbeat.lost(event.slots)",
        ],
        MALFORMED: [
            'state.drop("bad view")',
            'state.log(f"bad view from {peer}: {fault}", "warning")',
        ],
        REGISTER: [
            "if self._coordinator.shared is not None:",
            "self._coordinator.shared.take(event)",
            "self._outbid_predecessor()",
            "before = state.view.incarnations.get(state.address, 0) if state.view is not None else 0",
            "if state.incarnation < before <= OUTBID_MAX:",
            "self._start_anew(state.view, before)",
            "state.bound_until = -inf",
            "vouched_at = self._state.now",
            'state.log("an operator has this node go on, whatever the register holds and whoever else lives", "error")',
            "self._coordinator.shared.force()",
            'state.drop("view of a register that is refused")',
            'state.drop("another cluster\'s view")',
        ],
    },
    "app/cluster/membership/heartbeat.py": {
        RARE: [
            "for slot in slots_of(view.masks[state.address]):",
            "for learner in view.learners(slot):",
            "self._synced[learner] = self._synced.get(learner, 0) | 1 << slot",
            "return",
            "if self._state.is_member:",
            "self._lost |= slots",
            "self._tell()",
            "listed = sum(1 << slot for slot in slots_of(slots) if peer in view.holders(slot))",
            "lost = self._coordinator.lost",
            "if listed:",
            "lost[peer] = lost.get(peer, 0) | listed",
        ],
    },
    "app/cluster/membership/inbox.py": {
        AHEAD: [
            "before = known.incarnation",
            "known.note_later_process(message.incarnation, state.now)",
            "self._detector.died(peer, before)",
            "return True",
        ],
        RARE: [
            "state.post(peer, pb.ACK)  # so that it knows that somebody is there",
            "known.note_stamp(message.stamp_us, state.now)  # echoed, so that its answer may show that it lives",
            "if self._echo_after(known.died_at, message):",
            "continue",
            "self._coordinator.renew = True",
            'return "oversized"',
            'return "stranger"',
            "self._lives(peer, message.incarnation)",
            "state, known = self._state, self._state.of(peer)",
            "known.undead, known.dead = incarnation, incarnation - 1",
            "state.note_dead()",
            "self._detector.lives(peer, incarnation)",
            'state.log(f"{peer} lives, though its machine has refused a connection: it was held dead", "error")',
        ],
        MALFORMED: [
            'return "malformed"',
            'return "other protocol"',
            "self._state.note_present(peer)  # or we would found a second cluster beside its own",
            "self._say_refused(peer, protocol)",
            "state, known = self._state, self._state.of(peer)",
            "if state.now - known.refused_at >= timing.WAITING_LOG_S:",
            "known.refused_at = state.now",
            'why = f"it speaks node protocol {protocol}, this node {state.protocol}"',
            "if abs(protocol - state.protocol) == SHARED_REGISTER:",
            'why = "one of the two goes by an etcd, the other does not: give both the same --coordination"',
            'state.log(f"{peer} is refused: {why}", "warning")',
        ],
    },
    "app/cluster/membership/leases.py": {
        RARE: [
            "return inf",
        ],
    },
    "app/cluster/membership/planner.py": {
        RARE: [
            "return None",
            "parts.append(f\"lost copies: {' '.join(sorted(changes.lost))}\")",
        ],
    },
    "app/cluster/membership/override.py": {
        FORCED: [
            "cluster_id = 1 + (max(before.cluster_id, state.incarnation) + state.rng.getrandbits(32)) % CLUSTER_ID.most",
            "before, replicas = state.view, state.config.replicas",
            "nonce = state.rng.getrandbits(63) | 1",
            "if before is None:",
            "view = first_view(bootstrap.members(), state.incarnation, replicas, nonce)",
            "gone = {",
            "following = next_view(before, Changes(gone=gone), replicas, nonce)",
            'assert following is not None, "this node stays"',
            "view = replace(following, cluster_id=cluster_id, forced_from=(before.cluster_id, before.epoch))",
            "return replace(view, is_forced=not is_enough(view, state.config.servers))",
            "return detector.is_up(node) and state.of(node).view_key[0] in (0, view.cluster_id)",
            "return 0",
            "return sum(1 for slot, node in enumerate(view.primaries) if node not in before.holders(slot))",
        ],
        ORDERED: [
            "if view.lists_servers:",
            "return 2 * sum(1 for node in view.founders if node in view.incarnations) >= len(view.founders)",
            "return 2 * len(view.members) >= len(file)",
        ],
    },
    "app/cluster/membership/state.py": {
        AHEAD: [
            "self.note_overtaken(self.incarnation, now)",
            "self.overtaken, self.died_at = max(self.overtaken, incarnation), now",
            "self.note_new_process(incarnation)",
            "self.dead = incarnation - 1",
        ],
        FORCED: ["return 1"],
        RARE: [
            "return [*file]",
            "return",
            "return ()",
            "elif self.bound_to != self.view.cluster_id:",
            "self.bound_to = 0",
            "return set()",
        ],
    },
    "app/cluster/replication/core.py": {
        RARE: [
            "primary.wait_ms = self._mutations.wait_ms",
            "return self._replies.get(message_id) is not None",
            "return self._follower.staged_bytes",
            'shared.faults["frame without a link"] += 1',
            "return",
            "shared.out.closed.append(peer)",
            "return code",
            "return NO_ERR",
        ],
        MALFORMED: [
            'shared.faults["bad frame"] += 1',
            'raise frames.BadFrame(f"kind {kind}")',
        ],
        PEOPLE: [
            "return self._follower.short_of_room",
        ],
        UNIT: [
            "shared.recent.clear()",
        ],
    },
    "app/cluster/replication/follower.py": {
        RARE: [
            "patch = _unknown(slot)",
            "if session.is_whole:",
            "self._end(slot)  # asked again by the next tick, when there may be",
            'self._shared.faults["no room"] += 1',
            "if store.evicts:",
            "store.remove(slot, key)",
            "return store.evicts",
            "self.report({slot for slot in gaps if slot in self.sessions})",
            "self._end(slot)",
            "return True",
            "return False",
            "gathered = dict.fromkeys(session.primary for session in self.sessions.values() if session.staging)",
            "waiting = set(list(gathered)[1:])",
            "shared.positions[slot] = None",
            "shared.replies.forget_slots(1 << slot)",
            'shared.faults["no room"] += 1',
            "continue",
        ],
        MALFORMED: [
            'raise frames.BadFrame(f"ops that are not sound, in {len(body)} bytes")',
        ],
        PEOPLE: [
            "return len(self._no_room)",
        ],
        UNIT: [
            "del self._no_room[slot]",
            "shared = self._shared",
            "short = {slot for slot in slots if shared.positions[slot] is None or not shared.holds(slot)}",
            "tried = next(iter(self._no_room))",
            "is_due = shared.now >= self._room_at",
            "return short - {tried} if is_due else short",
            "self._ran_out_of_room(slot)",
            "self._lose({slot})",
            "shared.store.wipe((slot,))",
            "if slot in self._no_room:  # it was tried again",
            "self._room_pause_s = min(ROOM_PAUSE_MAX_S, 2 * self._room_pause_s)",
            "elif not self._no_room:",
            "self._room_pause_s = ROOM_PAUSE_S",
            "self._no_room[slot] = None",
            "self._room_at = shared.now + self._room_pause_s",
            "self._room_pause_s, self._room_at = ROOM_PAUSE_S, shared.now",
            "self._can_not_stage(slot)",
            "if shared.holds(slot):",
        ],
        UNSEEN: [
            "shared.send(peer, frames.TOUCHED, frames.encode_patches(number, part))",
            "part, size_bytes = [], 0",
        ],
    },
    "app/cluster/replication/frames.py": {
        MALFORMED: [
            'raise BadFrame(f"ops that are not sound, in {len(body)} bytes")',
            "return None",
            'raise BadFrame("no number of a report")',
            'raise BadFrame(f"epoch {epoch}")',
            'raise BadFrame(f"HAVE of {rows}")',
            'raise BadFrame(f"GO or BEGIN of {rows}")',
            'raise BadFrame(f"ACK of {rows}")',
            'raise BadFrame(f"END of {rows}")',
            'raise BadFrame(f"PAST of {rows}")',
            'raise BadFrame("TOUCHED of a session, or from no position")',
            'raise BadFrame("PATCH of no session")',
            'raise BadFrame(f"a reply of code {code} and {id_bytes} bytes")',
            'raise BadFrame(f"a table of {size} bytes in rows of {layout.size}")',
            'raise BadFrame(f"HAVE of {len(body)} bytes")',
            'raise BadFrame(f"QUERY of {len(body)} bytes")',
            'raise BadFrame(f"GO or BEGIN of {len(body)} bytes")',
            'raise BadFrame("ACK without sound flags")',
            'raise BadFrame(f"CREDIT of {len(body)} bytes")',
            'raise BadFrame(f"entries of {end} bytes")',
            'raise BadFrame("an entry is cut")',
            'raise BadFrame(f"an entry of {key_bytes} and {blob_bytes} bytes")',
            'raise BadFrame(f"replies of {end} bytes")',
            'raise BadFrame("a reply is cut")',
            'raise BadFrame(f"PAST of {len(body)} bytes")',
            'raise BadFrame(f"patches of {end} bytes")',
            'raise BadFrame("a patch is cut")',
            'raise BadFrame(f"a name of {size} bytes")',
        ],
        UNIT: [
            'raise BadFrame(f"PAST of more than {STRETCHES_MAX} stretches of a slot")',
            "ops = take_ops(body, OpFields)",
            "if ops is None:",
            "return ops",
        ],
    },
    "app/cluster/replication/applying.py": {
        RARE: [
            "self.staged_bytes += staging.apply(op)",
            "return True",
            "return False",
        ],
        UNIT: [
            'shared.faults["stale op"] += 1',
            "gaps.add(slot)",
            "self._had_no_room(slot, session)",
        ],
        MALFORMED: [
            "return None",
        ],
    },
    "app/cluster/replication/primary.py": {
        RARE: [
            "assert view is not None",
            "self._shared.positions[slot] = (view.epoch, 0)",
            "shared.store.wipe((slot,))",
            "shared.replies.forget_slots(1 << slot)",
            "base = (view.epoch, 0)",
            'self._shared.send(peer, frames.OPS, b"".join(part))',
            "part, size = [], 0",
        ],
        MALFORMED: [
            "raise frames.BadFrame(wrong)",
        ],
        UNIT: [
            "self.lost.add(slot)  # closed, until the next view makes one of those primary that have a whole copy",
            "return",
            "shared.out.emptied |= 1 << slot",
            "continue  # more than its link takes now: it reports again",
            "continue",
        ],
    },
    "app/cluster/replication/writes.py": {
        RARE: [
            "return IGNORED",
            "return False",
            "continue",
        ],
        MALFORMED: [
            'return f"slot {slot}: has {seq} of {led.seq}"',
            "return str(fault)",
        ],
        UNIT: [
            "outbox.flags |= BUSY",
        ],
    },
    "app/cluster/replication/staging.py": {
        RARE: [
            "self.entries[key] = None",
            "grown = 0",
            "if op.kind == frames.PUT_OP:",
            "grown = self.put(op.key, op.blob)",
            "elif op.kind == frames.REMOVE_OP:",
            "elif op.kind == frames.WIPE_OP:",
            "self.entries.clear()",
            "if op.message_id:",
            "grown += self.remember(op.message_id, op.code)",
            "return grown",
            "grown = self._wipe()",
            'freed = sum(len(key) + len(blob or b"") + ENTRY_BYTES for key, blob in self.entries.items())',
            "freed += sum(len(key) + ENTRY_BYTES for key in self.removed or ())",
            "self.removed = None",
            "return self._grow(-freed)",
        ],
        UNIT: [
            "self.removed.add(key)",
            "grown += len(key) + ENTRY_BYTES",
        ],
    },
    "app/cluster/replication/transfer.py": {
        LARGE: [
            "assert keys.cursor is not None",
            "keys = batch.slots[slot] = self._keys(slot, keys.cursor)",
            "continue",
        ],
        RARE: [
            "return",
            "self._send(peer, stream, kind, part)",
            "part, size = [], 0",
            "stream.queued.clear()",
            "stream.filling.clear()",
            "stream.batch = None",
        ],
        MALFORMED: [
            'raise frames.BadFrame(f"took {taken} chunks of {stream.sent}")',
        ],
    },
    "app/cluster/slots.py": {
        RARE: [
            "path.append((came_from[giver], giver))",
            "giver = came_from[giver]",
            "return None",
        ],
    },
    "app/cluster/view.py": {
        MALFORMED: [
            'raise BadView(f"members: {self.addresses}")',
            'raise BadView(f"cluster_id {self.cluster_id}, epoch {self.epoch}, members {self.members}")',
            'raise BadView("a table is not of 256 slots")',
            'raise BadView(f"a slot at {nodes} of {self.addresses}")',
            'raise BadView("a slot\'s list is cut or too long")',
            'raise BadView("a slot table is cut or names no member") from None',
            'raise BadView("a slot table has trailing bytes")',
            'raise BadView(f"{named} members or others, cause of {len(message.cause)} characters")',
            'raise BadView(f"{len(message.primaries)} primaries")',
            'raise BadView("a primary is no member")',
        ],
        ORDERED: [
            'raise BadView(f"founders {founders}, others {others}")',
        ],
    },
    "app/peers/datagrams.py": {
        SYSTEM: [
            "continue",
        ],
    },
    "app/cluster/membership/connectivity.py": {
        UNIT: [
            "return",
        ],
    },
    "app/cluster/membership/detector.py": {
        RARE: [
            "watched.heard_at = self._state.now",
            "watched.heard_awake_s = self._state.awake_s",
            "watched.probe = None",
            "self._clear(address, watched)",
        ],
        UNIT: [
            "watched = self._members.get(address)",
            "if watched is not None and watched.incarnation == incarnation and watched.state == DEAD:",
            "watched.state = ALIVE",
        ],
    },
    "app/cluster/membership/dialling.py": {
        UNIT: [
            "self._state.of(peer).note_link(is_up=False)",
        ],
    },
    "app/cluster/membership/status.py": {
        PEOPLE: [
            "learners[node] += 1",
        ],
    },
    "app/cluster/replication/state.py": {
        RARE: [
            "assert self.view is not None",
            'self.faults["copies lost"] += mask.bit_count()',
            "self.out.lost.append((mask, self.view.epoch))",
        ],
    },
    "app/cluster/limits.py": {
        MALFORMED: [
            "return field",
            'return "deaths"',
            'return "synced"',
            'return "lacks"',
        ],
    },
    "app/requests/settings.py": {
        PEOPLE: [
            "try:",
            "changes = _read(wanted)",
            'why_not = ""',
            "changes, why_not = {}, str(error)",
            "if changes:",
            "self._set({**self._current(), **changes})",
            'return json.dumps({**self._current(), "why_not": why_not}).encode()',
            "threshold_s = self._slow_log.threshold_s",
            'return {"log_level": logs.level(), "slow_ms": 0 if threshold_s == inf else round(threshold_s * 1000)}',
            '_log.warning("configured", **values)  # before, since the level may be above it afterwards',
            'logs.set_level(values["log_level"])',
            'self._slow_log.threshold_s = values["slow_ms"] / 1000 or inf',
            'text = wanted.strip(b"\\0 \\t\\r\\n")',
            "if not text:",
            "return {}",
            "said = json.loads(text)",
            'raise ValueError("not JSON") from None',
            "if not isinstance(said, dict) or not all(isinstance(value, str) for value in said.values()):",
            'raise ValueError("not an object of texts")',
            "values = {}",
            "for name, value in said.items():",
            "if name not in _parsers:",
            "raise ValueError(f\"{_shown(name)} can't be changed while a node runs; {' and '.join(CHANGEABLE)} can\")",
            "values[name] = _parsers[name](value)",
            "raise ValueError(f\"{name}: '{_shown(value)}' {error}\") from None",
            "return values",
            'return text if len(text) <= _SHOWN_MAX_CHARS else text[:_SHOWN_MAX_CHARS] + "..."',
        ],
    },
    "app/cluster/membership/belonging.py": {
        ORDERED: [
            "if {*servers} == {*state.config.servers}:",
            "return False",
            'return "this cluster was founded by force, with fewer servers than it needs: wait until it has more"',
            "return f\"{' '.join(old)} may run the last release, which knows no lists of servers: upgrade them first\"",
            "return (",
            'return f"the servers file names more than {FOUNDERS_MAX} servers: add to it, and kill -HUP each node"',
            'return f"{MEMBERS_MAX} servers belong: a cluster takes no more"',
            "return f\"of {' '.join(founders)}, by which the cluster was founded, {needed} must be members and up\"",
            'return ""',
            'return "no other member is left to take what it holds"',
            'return "it is the coordinator: it can only hand over" if server == self._state.address else ""',
            'return f"it does not answer, and is the last to hold {alone} slots: wait for it, or use force"',
            "grantor.denied.add(order.server)",
            "return True",
            "self._logged_at = state.now",
            "state.log(",
        ],
    },
    "app/cluster/replication/recent.py": {
        RARE: [
            "stretches = found[slot]",
            "if stretches[-1][0] == term:",
            "stretches[-1] = (term, seq, stretches[-1][2])",
            "elif len(stretches) < STRETCHES_MAX:",
            "stretches.append((term, seq, seq))",
            "del at[slot]",
            "del left[slot]",
        ],
    },
}
