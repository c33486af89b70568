"""What a half-written command line may go on with: for the prompt (tools/kv/prompt.py) and for people's shells.

A shell asks by running `kv.py complete -- WORDS`, so that what is offered is what the parser knows. That takes as long
as `--help`, about 50 ms: no client is imported for it.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Final

from tools import cli

_BASH: Final = """\
_kv_complete() {{
    local IFS=$'\\n'
    COMPREPLY=($({command} complete -- "${{COMP_WORDS[@]:1:COMP_CWORD}}" 2>/dev/null))
}}
complete -o default -F _kv_complete kv kv.py
"""
SCRIPTS: Final = {
    "bash": _BASH,
    "zsh": "autoload -U +X bashcompinit && bashcompinit\n" + _BASH,
    "fish": "complete -c kv -f -a '({command} complete -- (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'\n",
}


def script(shell: str) -> str:
    """What a shell is to read at its start: `source <(python tools/kv.py completion bash)`."""
    command = shlex.join([sys.executable, os.path.realpath(sys.argv[0])])
    return SCRIPTS[shell].format(command=command)


def commands_of(parser: cli.Parser) -> dict[str, cli.Parser]:
    """The parsers of commands by name, aliases too."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def candidates(parser: cli.Parser, words: Sequence[str]) -> list[str]:
    """What the last of these words, which may be empty, can become."""
    *before, begun = words or [""]
    commands = commands_of(parser)
    _, others = parser.sorted_out(before)
    given = others[0] if others and others[0] in commands else None
    reads = parser if given is None else commands[given]
    asked = reads._option_string_actions.get(before[-1]) if before else None
    if asked is not None and asked.nargs is None:  # its argument
        return _beginning(begun, map(str, asked.choices or ()))
    if begun.startswith("-"):
        return _beginning(begun, reads._option_string_actions)
    if given is None:
        return _beginning(begun, commands)
    _, others = reads.sorted_out(before[before.index(given) + 1 :])
    wanted = [action.choices or () for action in reads._actions if not action.option_strings]
    return _beginning(begun, map(str, wanted[len(others)])) if len(others) < len(wanted) else []


def _beginning(begun: str, words: object) -> list[str]:
    return sorted(word for word in words if word.startswith(begun))  # type: ignore[attr-defined]
