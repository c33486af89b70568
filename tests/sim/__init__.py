"""A deterministic simulator of clusters: real ClusterCore objects, virtual time, seeded network and nemesis.

After FoundationDB and TigerBeetle. `python -m tests.sim --seeds 100` runs seeds; each draws every option from its
number, and checks safety after every step; in the end the faults stop and the cluster must converge within a bounded
time. The same seed gives the same run.

    world.py       virtual time, hosts with clocks, processes, datagrams and links between them
    checks.py      what must hold after every step, and in the end
    nemesis.py     what goes wrong, and when
    run.py         one seed from start to end
    copies.py      the same with data: stores, reply memories, ordered links, clients
    ledger.py      what each copy must hold
    history.py     whether what clients saw can have happened
    copies_run.py  one seed with data from start to end
    pool.py        many seeds, over the cores
"""
