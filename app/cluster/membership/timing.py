"""Every duration of the cluster logic, derived from few, with the relations between them checked at import.

Two promises bound them from above: a silent node leaves every member's count within 1 s, and its slots are
served elsewhere then. Two bound them from below: a lost datagram, or a node that waits its turn on a crowded
machine, must not look like a death. All are seconds of a monotonic clock.
"""

from typing import Final

MEMBERSHIP_TICK_S: Final = 0.025  # the timer's grain; lower costs a wake-up of about 20 us each
HEARTBEAT_S: Final = 0.1  # between a member's lease requests while they are answered
ASK_RETRY_S: Final = 0.05  # after a request that stays unanswered

# How long a member supports its coordinator: "for so long I help no other to replace you". Leases live inside it.
# Raising it bridges longer loss and queueing, and delays the takeover from a silent coordinator by as much.
SUPPORT_S: Final = 0.6

# How far the rate of any node's clock may be off; real ones stay within 0.0002. Costs 2 % of each lease.
CLOCK_DRIFT: Final = 0.01
# What may be used of a span that another clock measures out: both clocks err, in opposite directions.
SAFE_SHARE: Final = (1 - CLOCK_DRIFT) / (1 + CLOCK_DRIFT)
# How long to wait until a span of SUPPORT_S on another clock has passed for certain.
LAPSE_S: Final = SUPPORT_S / SAFE_SHARE

# Failure detection (SWIM). One probe an interval; no answer within the timeout: ask others to probe as well;
# none at DEADLINE_SHARE timeouts: suspect.
PROBE_INTERVAL_S: Final = 0.1
PROBE_TIMEOUT_MIN_S: Final = 0.06  # the floor: the timeout follows the worst recent round trip
PROBE_TIMEOUT_MAX_S: Final = 0.5
ROUND_TRIP_SHARE: Final = 3.0  # timeout = this times the worst recent round trip
ROUND_TRIP_DECAY: Final = 0.95  # per answered probe
DEADLINE_SHARE: Final = 2.5
INDIRECT_PROBES: Final = 3
REPROBE_S: Final = 0.05  # a suspect is asked again this often: each answer clears it
SILENCE_S: Final = 0.25  # a partner of the heartbeat that is silent this long is probed out of turn

# A suspect is given MAX to prove itself alive; each member that suspects it too shortens that towards MIN.
SUSPICION_MIN_S: Final = 0.2
SUSPICION_MAX_S: Final = 0.35
HEALTH_MAX: Final = 8  # a node that doubts its own health waits up to 1 + this times as long
# Between two steps at most this much counts as time in which others could have answered: a stall of our own
# (a stopped process, a paused machine, a long collection) is nobody else's silence.
STEP_AWAKE_MAX_S: Final = 0.1

# A member goes on supporting its coordinator while it has proof of its life this recent (plus two round trips).
COORDINATOR_FRESH_S: Final = 0.2

PREPARE_RETRY_S: Final = 0.05  # resending in a round of agreement
ACCEPT_GRACE_S: Final = 0.1  # a proposer that has its quorum gives the others that seem up so long
ROUND_BACKOFF_S: Final = 0.1  # at most, before a new round after losing one
HELPED_S: Final = 0.3  # whoever helps a proposer leaves it so long to come to an end, or tries itself
BATCH_S: Final = 0.05  # joins and caught-up learners are gathered this long into one view
UNHEARD_S: Final = 1.0  # without a heartbeat, though others reach it: lacked like one without a link

# A member lacks another when the link between them has been down this long, or three of the worst recent round trips
# if that is longer (so long does a link take to come up). Lower, and a link that is dialled anew costs a member; each
# 0.1 s more is one more in which writes to the slots of both wait.
LACK_S: Final = 0.3
LACKS_SETTLE_S: Final = (
    0.2  # the ends of a broken link notice it at different times: who is to go is certain after this
)
# Whoever was removed for a lack is taken in again after so long at the earliest; twice as long each time, up to the
# second, as long as it is removed again within the third.
RETURN_MIN_S: Final = 1.0
RETURN_MAX_S: Final = 60.0
RETURN_FORGOTTEN_S: Final = 300.0
# For so long nobody is removed who would leave a slot of three copies with one: a machine that loses all its links
# loses them one by one, within a beat of life or two (app/peers/links.py), and is the only one to go once that shows.
KEEP_TWO_S: Final = 0.4
LACK_LINE_S: Final = 10.0  # between two lines of the log that say the same of the same two

HELLO_S: Final = 0.1  # between an outsider's requests to join
# These requests and their answers grow with the square of the servers (0.2 ms of processor time each, both sides
# together): in a file of more servers than this, they come more slowly in proportion, up to a limit.
HELLO_SERVERS: Final = 12
HELLO_MAX_S: Final = 0.4
HEARD_S: Final = 1.0  # a server counts as present this long after it was heard
# From the start to the first view, if all servers of the file are accounted for: servers started together meet in it,
# and whoever goes on without being named in the file is heard (belonging.py). Less gains nothing: a first view has no
# lease before LAPSE_S.
SETTLE_S: Final = 0.6
DIAL_S: Final = 0.25  # between tries to open a link
DIAL_NON_MEMBER_S: Final = 1.0  # to a server outside the view, unless it is proven absent: that is to be kept fresh
# A coordinator pings the servers outside its view this often: so clusters that were split find each other.
NON_MEMBER_PING_S: Final = 1.0
OBSERVED_STALE_S: Final = 2.0  # an outsider forgets a view none of whose members answers
# A stamp that is later than all that have come since stands for so long (state.py): longer than any datagram is late.
STAMP_KEPT_S: Final = 10.0
# A member without a lease for so long goes over to another view that has it in (core.py). Shorter: two that are both
# without one might change places.
STUCK_S: Final = 3.0
# Who was removed is listened to for so long, and told when it asks; so is whoever is in no list (belonging.py): several
# tries of the slowest outsider.
GUEST_S: Final = 5.0
# A coordinator that leaves waits so long at most for the others to have its last view; so does one that was removed and
# restarted, for them to notice.
FINAL_VIEW_S: Final = 1.0
ANTI_ENTROPY_S: Final = 0.02  # a peer that is behind is sent the view at most this often

# That a server of this machine has no process is known for so long after a connection to it was refused. Longer: more
# has to pass before founders are sure of each other; shorter: a busy node can't keep the proof fresh.
ABSENT_S: Final = 1.0
# A newcomer counts among a majority that founds without the others when it has run this long (bootstrap.py): then the
# leases that its predecessor supported are over. Also how long founders wait for servers that are silent.
FOUND_WAIT_S: Final = 2.0
WAITING_LOG_S: Final = 10.0  # between log lines of those who wait for others

# A shared register (shared_register.py). The coordinator's seat is good for MANDATE_S from when it was sent there, and
# written anew each RENEW_S. A silent coordinator is replaced after that, by the successor's clock; lower, and one slow
# answer of the register ends a mandate whenever a member is silent at the same time.
MANDATE_S: Final = 0.75
RENEW_S: Final = 0.25
REGISTER_TIMEOUT_S: Final = 0.3  # for one answer
REGISTER_RETRY_S: Final = 0.1  # after an answer that did not come
NEWCOMER_LOOK_S: Final = 0.2  # between reads of who finds no view; and to the first, if others are heard meanwhile
REGISTER_LOOK_S: Final = 1.0  # between reads of an outsider, and of whoever refuses what it has read
SEAT_READ_S: Final = 0.1  # between reads of a member that finds its coordinator ill
TURN_S: Final = 0.5  # of each member in turn, to take an ill coordinator's place
YIELD_S: Final = 4.0  # whoever has fewer than half of the members with it gives the others so long
GIVEN_UP_S: Final = 8.0  # until outsiders start anew without silent members, when most members are dead
FORCED_S: Final = 10.0  # an operator's order to go on stands for so long

# Whoever asks to join counts as present from one request to the next, and when one is lost in between.
assert HELLO_S <= HELLO_MAX_S < HEARD_S / 2
assert 2 * MEMBERSHIP_TICK_S <= ASK_RETRY_S < HEARTBEAT_S
# A lease (support, less a heartbeat of lag) outlives three lost heartbeats.
assert SUPPORT_S * SAFE_SHARE - HEARTBEAT_S > 3 * HEARTBEAT_S
# The heartbeat's echo is up to one interval old when all is well; that is no silence.
assert HEARTBEAT_S + 2 * MEMBERSHIP_TICK_S < COORDINATOR_FRESH_S < SILENCE_S
# A silent member is found, and its lease is over, within 1 s, each step rounded up to a tick.
FOUND_S: Final = SILENCE_S + DEADLINE_SHARE * PROBE_TIMEOUT_MIN_S + SUSPICION_MAX_S + 3 * MEMBERSHIP_TICK_S
assert FOUND_S < 0.9
# So is a silent coordinator, whose members first let their support of it run out.
assert COORDINATOR_FRESH_S + LAPSE_S + 2 * MEMBERSHIP_TICK_S < 0.9
# One pause of any length is short of a suspicion, let alone of one that runs out.
assert min(DEADLINE_SHARE * PROBE_TIMEOUT_MIN_S, SUSPICION_MIN_S) > STEP_AWAKE_MAX_S
# Of one that others reach, ten heartbeats are lost before it counts as unheard; its lease is long over.
assert HELPED_S > 2 * ACCEPT_GRACE_S + PREPARE_RETRY_S
assert UNHEARD_S > HEARTBEAT_S + LAPSE_S
# A link's silence (0.5 s: app/peers/links.py), the lack, its report and the wait for the lease make less than 2 s.
assert 0.5 + LACK_S + max(LACKS_SETTLE_S, LAPSE_S) + HEARTBEAT_S + ASK_RETRY_S + 2 * MEMBERSHIP_TICK_S < 1.8
# Who is refused is dialled again before its absence is forgotten, twice.
assert ABSENT_S > 3 * DIAL_S
# A lease that rests on the absence of a newcomer, or on the support of the process before it, is over by the time at
# which the newcomer may found with others.
assert FOUND_WAIT_S * SAFE_SHARE > ABSENT_S + LAPSE_S
# Over a network a killed process is out, and replaced, within 0.8 s: refused at once, its suspicion over before the
# leases that it gave, or had, and a round of agreement after those.
assert SUSPICION_MIN_S < LAPSE_S
assert LAPSE_S + 4 * MEMBERSHIP_TICK_S < 0.8
# One swap of the seat may be lost: the next is sent, after a read, while the mandate runs.
assert RENEW_S + REGISTER_TIMEOUT_S + REGISTER_RETRY_S + 2 * MEMBERSHIP_TICK_S < MANDATE_S * SAFE_SHARE
# A silent coordinator's place is taken 1.3 s after its end, and what the register needs: the successor reads the seat
# when it begins to suspect, and finds it lapsed; its own support of the silent one has run out by then.
_SUSPECTED_S: Final = SILENCE_S + DEADLINE_SHARE * PROBE_TIMEOUT_MIN_S + MEMBERSHIP_TICK_S
assert FOUND_S < _SUSPECTED_S + MANDATE_S / SAFE_SHARE < 1.2
assert COORDINATOR_FRESH_S + SUPPORT_S < _SUSPECTED_S + MANDATE_S / SAFE_SHARE
# Those who are more are done before those who are fewer try, though the register fails them some times; and any member
# before outsiders give it up.
_TRIES_S: Final = 5 * (REGISTER_TIMEOUT_S + REGISTER_RETRY_S)
assert FOUND_S + MANDATE_S / SAFE_SHARE + _TRIES_S < YIELD_S
assert FOUND_S + MANDATE_S / SAFE_SHARE + _TRIES_S + YIELD_S < GIVEN_UP_S
# What the process before an outsider has promised is over long before it starts anew.
assert LAPSE_S < GIVEN_UP_S
