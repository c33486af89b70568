"""The simulated loop, clocks and network by themselves, under programs of a few lines."""

import errno
from collections.abc import Callable
from typing import Any

import pytest

from app.front import batch
from app.front.batch import Ring
from app.loop import READ, WRITE
from tests.sim.loop import Crashed, SimLoop
from tests.sim.network import Network, NetworkOptions, SimSockets, Stream, sockaddr
from tests.sim.process import NodeOptions
from tests.sim.world import Clock, Host, World


class Program:
    """What a test's process needs to have of a Process."""

    def __init__(self, site: "Site", host: Host) -> None:
        self.world, self.host, self.options = site.world, host, site.options
        self.is_over = self.is_stopped = False
        self.ahead_s = 0.0
        self.turns = 0
        self.sockets: Any = None
        self.loop = SimLoop(self)  # type: ignore[arg-type]
        SimSockets(site.network, self, 3331)  # type: ignore[arg-type]
        host.process = self  # type: ignore[assignment]

    @property
    def time(self) -> float:
        return max(self.ahead_s, self.world.now)

    def read_clock(self) -> float:
        return self.host.clock.local(self.time)

    def read_wall_clock(self) -> float:
        return self.host.clock.unix(self.time)

    def turned(self) -> None:
        self.turns += 1

    def sends(self, data: bytes, target: bytes) -> None:
        pass

    def exited(self, status: int) -> None:
        self.is_over = True


class Site:
    """Two machines and what runs on them."""

    def __init__(self, **network: Any) -> None:
        self.world = World(1)
        self.options = NodeOptions(lag_s=0.0)
        self.world.options = self.options  # type: ignore[attr-defined]
        self.hosts = [Host(number, Clock(1.0, 100.0 * number, 1e9)) for number in (1, 2)]
        self.network = Network(self.world, NetworkOptions(**{"delay_s": 0.001, "jitter_s": 0.0} | network), self.hosts)
        self.one, self.other = (Program(self, host) for host in self.hosts)
        self.ips = (self.hosts[0].ip, self.hosts[1].ip)

    def run(self, seconds: float) -> None:
        self.world.run(self.world.now + seconds)

    def connect(self) -> tuple[Stream, Stream]:
        """Both ends of a connection."""
        dialled = self.one.sockets.dialling()
        assert dialled.connect_ex((self.ips[1], 3331)) == errno.EINPROGRESS
        self.run(0.01)
        assert dialled.ready(WRITE)
        assert dialled.error() == 0
        accepted, address = self.other.sockets.listener.accept()
        assert address == dialled.getsockname()
        return dialled, accepted

    def cut(self, *paths: tuple[int, int]) -> None:
        self.network.cut([(self.ips[a], self.ips[b]) for a, b in paths], datagrams=False, streams=True)


BOTH = ((0, 1), (1, 0))


def received(stream: Stream) -> bytes | None:
    """What is there; None: nothing yet."""
    try:
        return stream.recv(1 << 20)
    except BlockingIOError:
        return None


class TestLoop:
    def test_a_turn_calls_callbacks_that_callbacks_ask_for(self) -> None:
        site, seen = Site(), []
        loop = site.one.loop
        loop.run_callback(lambda: (seen.append(1), loop.run_callback(seen.append, 2)))
        site.run(0.001)
        assert seen == [1, 2]
        assert site.one.turns == 1

    def test_timers_go_by_the_machines_clock(self) -> None:
        site, seen = Site(), []
        loop, clock = site.one.loop, site.hosts[0].clock
        loop.timer().start(1.0, lambda: seen.append(site.world.now))
        clock.set_rate(0.0, 0.0)
        site.run(5.0)
        assert not seen
        clock.set_rate(site.world.now, 1.0)
        loop.arm()
        site.run(0.9)
        assert not seen
        site.run(0.2)
        assert seen == [pytest.approx(6.0)]

    def test_a_timer_that_is_started_again_forgets_the_first(self) -> None:
        site, seen = Site(), []
        timer = site.one.loop.timer()
        timer.start(0.1, seen.append, 1)
        timer.start(0.2, seen.append, 2)
        site.run(1.0)
        assert seen == [2]
        timer.start(0.1, seen.append, 3)
        timer.stop()
        site.run(1.0)
        assert seen == [2]

    def test_tasks_sleep_and_are_cancelled(self) -> None:
        site, seen = Site(), []
        loop = site.one.loop

        def work() -> None:
            try:
                while True:
                    seen.append(round(site.world.now, 3))
                    loop.sleep(0.1)
            finally:
                seen.append("ends")

        task = loop.spawn(work)
        site.run(0.25)
        loop.run_callback(task.cancel)
        site.run(0.25)
        assert seen == [0.0, 0.1, 0.2, "ends"]

    def test_a_stopped_process_has_one_turn_for_all_that_came(self) -> None:
        site, seen = Site(), []
        site.one.loop.timer().start(0.1, seen.append, 1)
        site.one.loop.timer().start(0.2, seen.append, 2)
        site.one.is_stopped = True
        site.run(1.0)
        assert not seen
        site.one.is_stopped = False
        site.one.loop.resume()
        site.run(0.1)
        assert sorted(seen) == [1, 2]
        assert site.one.turns == 1

    @pytest.mark.parametrize("spawns", [True, False])
    def test_what_nobody_catches_ends_the_run(self, spawns: bool) -> None:
        site = Site()

        def fails() -> None:
            raise ValueError("of ours")

        (site.one.loop.spawn if spawns else site.one.loop.run_callback)(fails)
        with pytest.raises(Crashed, match="of ours"):
            site.run(0.1)

    def test_nothing_runs_after_an_exit(self) -> None:
        site, seen = Site(), []
        loop = site.one.loop

        def leaves() -> None:
            loop.exit(0)

        loop.spawn(leaves)
        loop.run_callback(seen.append, 1)
        site.run(0.1)
        assert site.one.is_over
        assert not seen


class TestStreams:
    def test_bytes_arrive_in_order_and_the_end_after_them(self) -> None:
        site = Site(jitter_s=0.1)
        one, other = connect_within(site, 1.0)
        for part in (b"a", b"b", b"c"):
            one.send(part)
        one.close()
        got = b""
        while (part := received(other)) != b"":
            got += part or b""
            site.run(0.001)
        assert got == b"abc"

    def test_a_full_buffer_takes_no_more_until_it_is_read(self) -> None:
        site = Site(stream_buffer_bytes=1000)
        one, other = site.connect()
        assert one.send(bytes(1500)) == 1000
        with pytest.raises(BlockingIOError):
            one.send(b"x")
        woken: list[float] = []
        watcher = site.one.loop.watch(one.fileno(), WRITE)
        watcher.start(lambda: (woken.append(site.world.now), watcher.stop()))
        site.run(1.0)
        assert not woken
        assert received(other) == bytes(1000)
        site.run(0.01)
        assert woken
        assert one.send(bytes(1500)) == 1000

    @pytest.mark.parametrize(("way", "arrives"), [(((0, 1),), False), (((1, 0),), True), (BOTH, False)])
    def test_what_was_sent_in_a_cut_arrives_after_it(self, way: tuple[tuple[int, int], ...], arrives: bool) -> None:
        site = Site(survives_cut_s=100.0)
        one, other = site.connect()
        site.cut(*way)
        one.send(b"late")
        site.run(7.0)
        assert (received(other) == b"late") == arrives
        site.network.mend()
        site.run(5.0)
        assert received(other) == (None if arrives else b"late")

    def test_one_direction_goes_on_until_nothing_is_acknowledged(self) -> None:
        site = Site(survives_cut_s=100.0, stream_buffer_bytes=1 << 20)
        one, other = site.connect()
        site.cut((1, 0))
        for _ in range(100):
            one.send(bytes(1000))
        site.run(1.0)
        got = received(other)
        assert got is not None
        assert 10_000 < len(got) < 20_000

    def test_a_long_cut_ends_the_stream_when_it_is_mended(self) -> None:
        site = Site(survives_cut_s=1.0)
        one, other = site.connect()
        site.cut(*BOTH)
        one.send(b"lost")
        site.run(2.0)
        site.network.mend()
        for end in (one, other):
            with pytest.raises(OSError, match="broken"):
                end.recv(10)

    def test_a_dead_process_refuses_and_its_streams_end(self) -> None:
        site = Site()
        one, _ = site.connect()
        site.other.sockets.close(power=False)
        site.run(0.1)
        assert received(one) == b""
        again = site.one.sockets.dialling()
        again.connect_ex((site.ips[1], 3331))
        site.run(0.1)
        assert again.error() == errno.ECONNREFUSED

    def test_a_machine_without_power_says_nothing_until_it_is_back(self) -> None:
        site = Site()
        one, _ = site.connect()
        site.other.sockets.close(power=True)
        site.hosts[1].is_on = False
        one.send(b"are you there")
        site.run(3.0)
        assert received(one) is None  # half open
        site.hosts[1].is_on = True
        site.run(5.0)
        with pytest.raises(OSError, match="broken"):
            one.recv(10)

    def test_a_connection_waits_for_the_cut_to_be_mended(self) -> None:
        site = Site()
        site.cut((1, 0))
        dialled = site.one.sockets.dialling()
        dialled.connect_ex((site.ips[1], 3331))
        site.run(2.0)
        assert not dialled.ready(WRITE)
        site.network.mend()
        site.run(4.1)
        assert dialled.ready(WRITE)
        assert dialled.error() == 0

    def test_a_connection_may_be_refused_although_the_process_lives(self) -> None:
        site = Site()
        site.network.refusing.add(site.ips)
        dialled = site.one.sockets.dialling()
        dialled.connect_ex((site.ips[1], 3331))
        site.run(0.1)
        assert dialled.error() == errno.ECONNREFUSED


def connect_within(site: Site, seconds: float) -> tuple[Stream, Stream]:
    dialled = site.one.sockets.dialling()
    dialled.connect_ex((site.ips[1], 3331))
    site.run(seconds)
    return dialled, site.other.sockets.listener.accept()[0]


class TestDatagrams:
    def ring(self, program: Program, size: int = 4) -> tuple[Ring, Callable[[], list[bytes]]]:
        ring = Ring(size)

        def take() -> list[bytes]:
            count = program.sockets.datagrams.receive(ring)
            stride = len(ring.buffer) // size
            ints = len(ring.header_ints) // size
            return [
                bytes(ring.buffer[n * stride : n * stride + ring.header_ints[n * ints + batch._LENGTH_AT]])
                for n in range(count)
            ]

        return ring, take

    def test_they_arrive_with_their_senders_address_and_age(self) -> None:
        site = Site()
        ring, take = self.ring(site.other)
        assert site.one.sockets.datagrams.send_to(b"hello", (site.ips[1], 3331))
        site.run(2.0)
        assert take() == [b"hello"]
        assert bytes(ring.addresses[:16]) == sockaddr(site.ips[0], 3331)
        assert site.other.sockets.datagrams.age_s() == pytest.approx(2.0 - 0.001)
        site.hosts[1].clock.step_wall(-1.0)
        assert site.other.sockets.datagrams.age_s() == pytest.approx(1.0 - 0.001)

    def test_a_full_buffer_loses_them(self) -> None:
        site = Site(datagram_buffer_bytes=1000)
        _, take = self.ring(site.other)
        for _ in range(10):
            site.one.sockets.datagrams.send_to(bytes(100), (site.ips[1], 3331))
        site.run(1.0)
        assert len(take()) == 2
        assert site.other.sockets.datagrams.overflowed == 8

    def test_large_ones_may_be_lost_alone(self) -> None:
        site = Site(large_loss=1.0)
        _, take = self.ring(site.other)
        for size in (1400, 1401):
            site.one.sockets.datagrams.send_to(bytes(size), (site.ips[1], 3331))
        site.run(1.0)
        assert take() == [bytes(1400)]

    def test_a_cut_is_for_datagrams_or_for_streams(self) -> None:
        site = Site()
        _, take = self.ring(site.other)
        site.cut(*BOTH)
        site.one.sockets.datagrams.send_to(b"passes", (site.ips[1], 3331))
        site.run(1.0)
        assert take() == [b"passes"]
        site.network.cut([site.ips], datagrams=True, streams=False)
        site.one.sockets.datagrams.send_to(b"does not", (site.ips[1], 3331))
        site.run(1.0)
        assert take() == []

    def test_what_comes_from_an_address_goes_to_the_socket_connected_to_it_while_that_is_open(self) -> None:
        site = Site()
        _, take = self.ring(site.other)
        first = site.other.sockets.connected((site.ips[0], 3331))
        second = site.other.sockets.connected((site.ips[0], 3331))
        for closed, taker in ((None, second), (first, second)):
            if closed is not None:
                closed.close()
            site.one.sockets.datagrams.send_to(b"for it", (site.ips[1], 3331))
            site.run(1.0)
            assert (taker.recv(100), take()) == (b"for it", [])
        second.close()
        site.one.sockets.datagrams.send_to(b"for the main one", (site.ips[1], 3331))
        site.run(1.0)
        assert take() == [b"for the main one"]

    def test_one_is_read_once_a_turn(self) -> None:
        site = Site()
        _, take = self.ring(site.other, size=2)
        seen: list[list[bytes]] = []
        site.other.sockets.datagrams.serve(lambda: seen.append(take()))
        for number in range(3):
            site.one.sockets.datagrams.send_to(b"%d" % number, (site.ips[1], 3331))
        site.run(1.0)
        assert [data for part in seen for data in part] == [b"0", b"1", b"2"]
        assert all(len(part) <= 2 for part in seen)


def test_readers_are_told_of_what_a_stream_brings() -> None:
    site = Site()
    one, other = site.connect()
    seen: list[bytes] = []
    watcher = site.other.loop.watch(other.fileno(), READ)
    watcher.start(lambda: seen.append(other.recv(3)))
    one.send(b"abcdef")
    site.run(0.1)
    assert seen == [b"abc", b"def"]


def test_a_full_stream_learns_of_a_machine_that_was_without_power() -> None:
    site = Site(stream_buffer_bytes=1000)
    one, _ = site.connect()
    assert one.send(bytes(1000)) == 1000
    site.run(0.1)
    with pytest.raises(BlockingIOError):
        one.send(b"x")
    site.other.sockets.close(power=True)
    site.hosts[1].is_on = False
    site.run(0.1)
    assert one.ready(WRITE)
    one.send(b"x")
    site.hosts[1].is_on = True
    site.run(5.0)
    with pytest.raises(OSError, match="broken"):
        one.send(b"x")
