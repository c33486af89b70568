"""What holds for every test."""

from hypothesis import settings

from app import fast

# No limit of time for an example: a machine that is busy fails nothing. A failure can be replayed from what it prints.
settings.register_profile("tests", deadline=None, print_blob=True)
settings.load_profile("tests")


def pytest_report_header() -> str:
    return f"the compiled core: {fast.CORE}"
