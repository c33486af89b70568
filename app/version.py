"""Which release this is, and which protocol its nodes speak among themselves. The only place that says either.

A checkout, the image and the packages all read it here: pyproject.toml takes VERSION from this file's text, so it
stays a plain string. CHANGELOG.md says what each release has brought. How to make one: CONTRIBUTING.md.
"""

from typing import Final

VERSION: Final = "0.2.0.dev0"  # as Python packages are numbered (PEP 440); .dev0: what is to become that release

# The number of the protocol between nodes (links' greetings, messages about membership, frames). Nodes of one number
# work together, whatever their releases; nodes of different ones refuse each other (docs/operations.md). Raise it with
# a change that nodes of the release before would misunderstand; what they skip unread needs no new number.
NODE_PROTOCOL: Final = 2
# What a message that names none speaks: the first release's, in which only links' greetings named one.
NODE_PROTOCOL_UNNAMED: Final = 2
# What is added to it in messages about membership where something outside decides on views (shared_register.py), and
# not the nodes: the one kind would misunderstand the other.
SHARED_REGISTER: Final = 128
assert NODE_PROTOCOL < SHARED_REGISTER
