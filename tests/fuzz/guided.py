"""One target under atheris, in a process of its own: `python -m tests.fuzz.guided TARGET [libFuzzer's arguments]`.

What is measured for coverage is `app`. Its modules are instrumented as they are imported, so this must be the first to
import them.
"""

import logging
import sys

import atheris

with atheris.instrument_imports(include=["app"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    name, *arguments = sys.argv[1:]
    logging.disable(logging.CRITICAL)  # the node's: what is refused here is refused a thousand times a second
    atheris.Setup([name, *arguments], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
