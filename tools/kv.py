"""Starts the command-line client, the package tools/kv: `python tools/kv.py --help` explains it."""

import os
import sys

# The repository's packages; among them tools.kv, which is the package: a package hides a module of the same name.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from tools.start import start

start("kv.py", "tools.kv.__main__")
