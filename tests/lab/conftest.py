"""What the lab's tests have in common."""

from collections.abc import Callable

import pytest

from tests.lab.namespaces import why_not

Tell = Callable[[str], None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs namespaces where there can be none."""
    if why_not():
        for item in items:
            if "/lab/" in str(item.path):
                item.add_marker(pytest.mark.skip(reason=why_not()))


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    """Print a line for whoever watches."""

    def say(text: str) -> None:
        with capsys.disabled():
            print(f"\n{text}")

    return say
