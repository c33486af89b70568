"""The lab: real nodes (app/main.py) on a network of their own, and what happens to networks.

Each node runs in a network namespace, as if on a machine of its own; so do the clients, and there the test's thread
is while a lab is open. A router joins them, and what happens to a packet is the router's to say, by source, target and
protocol (network.py). A cable is what lies between two hosts.

       clients          node 1          node 2          node 3        what refuses
      10.0.0.2         10.0.1.2        10.0.2.2        10.0.3.2       10.0.255.2
          |                |               |               |               |
        leg0             leg1            leg2            leg3           leg255
          +----------------+-------+-------+---------------+---------------+
                                 router
            rules: iif leg2 to 10.0.3.2 blackhole                  cut, one way
                   iif leg2 to 10.0.3.2 ipproto tcp lookup 77      refused: reset by 10.0.255.2
                   iif leg2 to 10.0.3.2 lookup 1515                degraded: by way of air.py

    with lab(tmp_path, 3) as here:
        here.start()
        a, b, c = here.nodes
        cut = time.monotonic()
        here.cable(b, c).cut("tcp", source=b.machine)
        Probes(here.nodes).served_after(cut)

It takes Linux, iproute2 and the rights of root; else the tests are skipped, with the reason. Nothing is left behind,
however they end: the namespaces have no names, and vanish with the processes in them. What the kernel need not have:
iptables, nftables, netem.

- `tests/lab/test_*.py`: scenarios. One by hand, with times and the nodes' logs: `pytest -sk one_bad_cable tests/lab`.
  To look around meanwhile: `nsenter --net=/proc/PID/ns/net ss -tn`, PID being a node's.
- nemesis.py: random faults of network and processes under load: `python -m tests.lab --minutes 10 --seed 1`.

What an idle machine keeps in 2 s is held to 8 s here: machines are busy. The times seen are printed.
"""
