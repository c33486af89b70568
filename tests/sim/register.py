"""The register outside that nodes may share: it can compare and swap, and is slow, cut off, and loses things."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from app.cluster.events import AskRegister, RegisterAnswered, RegisterFailed
from app.cluster.membership.timing import REGISTER_TIMEOUT_S

if TYPE_CHECKING:
    from tests.sim.process import Process


@dataclass
class RegisterOptions:
    """How it behaves."""

    delay_s: float = 0.002  # of a request, and of its answer, at most
    loss: float = 0.0  # share of requests that are lost, and of answers
    late: float = 0.0  # share of requests that come so late that nobody waits for them any more


def draw_register(rng: Random) -> RegisterOptions:
    """As a seed has it."""
    return RegisterOptions(
        rng.choice((0.001, 0.005, 0.1, 0.25)),
        rng.choice((0.0, 0.0, 0.05, 0.3)),
        rng.choice((0.0, 0.0, 0.02, 0.2)),
    )


@dataclass
class SimRegister:
    """See the module."""

    options: RegisterOptions
    rng: Random
    after: Callable[..., None]  # as World.after
    seat: bytes | None = None
    view: bytes | None = None
    origin: int = 1
    requests: int = 0
    swaps: int = 0  # that were taken
    cut_off: set[str] = field(default_factory=set)  # the addresses of those it does not hear

    def ask(self, asked: AskRegister) -> RegisterAnswered:
        """What it does, and answers."""
        self.requests += 1
        if asked.seat is None or asked.expected != self.seat:
            return RegisterAnswered(asked.number, False, self.seat, self.view, self.origin)
        self.seat, self.view = asked.seat, asked.view if asked.view is not None else self.view
        self.swaps += 1
        return RegisterAnswered(asked.number, True, None, None, self.origin)

    def send(self, address: str, asked: AskRegister, give: Callable[[RegisterAnswered | RegisterFailed], None]) -> None:
        """A node asks; what comes of it is given to it."""
        options, rng = self.options, self.rng
        self.after(REGISTER_TIMEOUT_S, give, RegisterFailed(asked.number, "timed out"))
        delay_s = rng.uniform(0, options.delay_s)
        if rng.random() < options.late:
            delay_s += rng.uniform(0, 3.0)
        if address not in self.cut_off and rng.random() >= options.loss:
            self.after(delay_s, self._arrive, address, asked, give)

    def _arrive(self, address: str, asked: AskRegister, give: Callable[[RegisterAnswered], None]) -> None:
        """Whether or not who has sent it lives still, or waits."""
        answer = self.ask(asked)
        if address not in self.cut_off and self.rng.random() >= self.options.loss:
            self.after(self.rng.uniform(0, self.options.delay_s), give, answer)

    def make_well(self) -> None:
        """The faults stop."""
        self.cut_off.clear()
        self.options.loss, self.options.late = min(self.options.loss, 0.05), 0.0


class RegisterClient:
    """A simulated node's way to it."""

    def __init__(self, process: "Process", register: SimRegister) -> None:
        self._process = process
        self._register = register
        self._taken: Callable[[RegisterAnswered | RegisterFailed], object]
        self.requests = 0
        self.failures = 0

    def start(self, taken: Callable[[RegisterAnswered | RegisterFailed], object]) -> None:
        self._taken = taken

    def ask(self, asked: AskRegister) -> None:
        self.requests += 1
        self._register.send(self._process.address, asked, self._give)

    def reread(self) -> Callable[[], str]:
        return str  # it has no files

    def stop(self) -> None: ...

    def _give(self, event: RegisterAnswered | RegisterFailed) -> None:
        if not self._process.is_over:
            self._process.loop.run_callback(self._taken, event)


def cut_register(
    register: SimRegister, addresses: list[str], rng: Random, note: Callable[..., None], is_over: Callable[[], bool]
) -> None:
    """Some do not reach the register for a while, or nobody does; again and again."""
    if is_over():
        return
    share = rng.choice((0.3, 0.6, 1.0))
    some = {address for address in addresses if rng.random() < share}
    note("register", "is cut off from", sorted(some))
    register.cut_off |= some
    register.after(rng.choice((0.2, 0.7, 2.0, 5.0)) * rng.uniform(0.5, 1.5), _mend, register, some, note)
    register.after(rng.expovariate(1 / 2.0), cut_register, register, addresses, rng, note, is_over)


def _mend(register: SimRegister, some: set[str], note: Callable[..., None]) -> None:
    note("register", "is there again for", sorted(some))
    register.cut_off -= some
