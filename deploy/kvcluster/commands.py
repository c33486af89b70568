"""The commands that the package installs."""

from typing import NoReturn


def kv() -> NoReturn:
    """The command-line client."""
    from tools.start import start

    start("kv", "tools.kv.__main__")


def kv_flood() -> NoReturn:
    """The load generator."""
    from tools.start import start

    start("kv-flood", "tools.flood")


def kv_node() -> NoReturn:
    """A node."""
    from app.main import start

    start()
