"""A deterministic simulator of clusters: whole nodes, as they serve, in virtual time, under seeded faults.

After FoundationDB and TigerBeetle. `python -m tests.sim --seeds 100` runs seeds; each draws every option from its
number; safety is checked at every step and every answer; in the end the faults stop and the cluster must become whole
within a bounded time; then, in some, a fault comes that stays, and those whom it leaves must serve. The same seed gives
the same run, in whatever process.

**What runs is app.node.Node**: commands, forwarding, replicator, turn, front and batches, links with their
handshake, framing and queues, datagram seals, membership shell and core, replication, store, replies, governor.

**What is replaced**, and by what:

    app/loop.py        loop.py: turns in virtual time that find several things at once, late timers, stops in the middle
    app/sockets.py     network.py: datagrams and streams between machines; the system's calls on them
    the clocks         world.py: each machine's own, with rate and offset; the wall clock steps
    resident size      process.py: the arena's and the replies' bytes, and what the nemesis adds
    random bytes       the run's generator
    signals, HTTP, allocators, the collector (app.process.run) are left out

Simulated nodes are small where memory is to be tight (process.py: the governor's floor, the bound on replies).

    world.py       virtual time, machines with clocks
    process.py     one run of a node's program on a machine
    cluster.py     all of it together
    clients.py     UDP clients that repeat themselves, move, and write down what they saw
    nemesis.py     what goes wrong, and when
    checks.py      what must hold, after every step and in the end
    ledger.py      what each copy must hold
    history.py     whether what clients saw can have happened
    run.py         one seed from start to end
    lines.py       which lines of the node are run; not_run.py lists the others
    pool.py        many seeds, over the cores
    register.py    a register outside, where it and not the nodes decides on views (`--register`)
    core_*.py      the membership core alone, for the times that it promises and for days of lossy networks

**What is excused**, and why:

- Keys of slots all of whose holders left the view between two views: they start empty, nothing was promised of them.
  (The nemesis ends no process that has the last whole copy; but holders may be expelled together, and one copy is one.)
- Where memory is tight and entries may be evicted, a key may be missing; another value never is.
- A view that nobody alive has accepted or gone by never was.
- A clock that stands still for more than 4 ms, which the leases' margin for drift covers: docs/cluster.md names it
  among what is not promised.
"""
