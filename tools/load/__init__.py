"""What is behind tools/flood.py, in reading order: plan (what to do), keys and sizes (which key, how long a value),
values (what a read must give), targets and memcached (the protocols), faults and lanes (the network), loop (one
process), processes (several), tally and results (what came of it), compare and report (how it is shown).
"""
