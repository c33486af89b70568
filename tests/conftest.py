"""For all tests."""

from hypothesis import settings

# How long an example takes says nothing: others may use the machine.
settings.register_profile("tests", deadline=None, print_blob=True)
settings.load_profile("tests")
