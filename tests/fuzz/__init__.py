"""Fuzzing: inputs that nobody thought of, made of random choices, some of them guided by what they reach.

    python -m tests.fuzz                  every target in turn, guided by coverage: `make fuzz MINUTES=n`
    python -m tests.fuzz.links            three real nodes under load, and a fourth one that lies over its links

A target (targets.py) is a function of bytes, which are read as a row of choices (choices.py): so whatever atheris makes
of an input is another row of choices. Those that reached something new are kept in corpus/TARGET, and whatever was
found goes there, too: the tests try them all again.
"""
