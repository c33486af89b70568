"""A deterministic simulator of clusters: real ClusterCore objects, virtual time, seeded network and nemesis.

After FoundationDB and TigerBeetle. `python -m tests.sim --seeds 100` runs seeds; each prints its number
first, draws every option from it, and checks safety after every step; in the end the faults stop and the
cluster must converge within a bounded time. The same seed gives the same run.

    world.py     virtual time, hosts with clocks, processes, datagrams and links between them
    checks.py    what must hold after every step, and in the end
    nemesis.py   what goes wrong, and when
    run.py       one seed from start to end

To add stores and clients: give Process what a node has besides its core (it sees every effect in
`carry_out`), schedule clients with World.at, and put the history check beside Checks.
"""
