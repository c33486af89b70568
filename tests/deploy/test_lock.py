"""requirements.lock: one version and the hashes of each package that a node needs, within requirements.txt's ranges."""

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.nodes import REPOSITORY

LOCK = (REPOSITORY / "requirements.lock").read_text()
RANGES = (REPOSITORY / "requirements.txt").read_text()


def requirements(text: str) -> dict[str, Requirement]:
    """By name; of a file of pip's, without hashes and comments."""
    lines = [line.partition("#")[0].partition("--hash")[0].strip(" \\") for line in text.splitlines()]
    found = [Requirement(line) for line in lines if line]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


LOCKED = requirements(LOCK)


def version(name: str) -> str:
    (only,) = LOCKED[name].specifier
    assert only.operator == "=="
    return only.version


def needed_by(name: str) -> Iterator[Requirement]:
    """What a package says that it needs here, as it is installed; it may be of another version than the locked one."""
    for line in requires(name) or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement


def test_what_compiles_is_locked_as_well() -> None:
    locked = requirements((REPOSITORY / "requirements-build.lock").read_text())
    ranges = requirements((REPOSITORY / "requirements-build.txt").read_text())
    assert locked.keys() == ranges.keys()
    for name, wanted in ranges.items():
        (only,) = locked[name].specifier
        assert only.version in wanted.specifier, f"{name} is not within {wanted}: make lock"


def test_every_range_has_its_version() -> None:
    ranges = requirements(RANGES)
    assert len(ranges) >= 5
    for name, wanted in ranges.items():
        assert name in LOCKED, f"{name} is missing: make lock"
        assert version(name) in wanted.specifier, f"{name} {version(name)} is not within {wanted}: make lock"


def test_nothing_is_missing_and_nothing_too_much() -> None:
    reached = set(requirements(RANGES))
    waiting = list(reached)
    while waiting:
        try:
            needed = list(needed_by(waiting.pop()))
        except PackageNotFoundError:
            pytest.skip("requirements.txt is not installed here")
        for requirement in needed:
            name = canonicalize_name(requirement.name)
            if name not in reached:
                reached.add(name)
                waiting.append(name)
    assert set(LOCKED) == reached


def test_each_has_one_version_for_all_and_the_hashes_of_its_files() -> None:
    entries = re.split(r"\n(?=[a-z])", LOCK.partition("\n#    make lock\n")[2].strip())
    assert len(entries) == len(LOCKED)
    for entry in entries:
        head, *hashes = [line.strip(" \\") for line in entry.splitlines() if not line.strip().startswith("#")]
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", head)
        assert hashes
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", line) for line in hashes)
        assert len(set(hashes)) == len(hashes)


def test_where_they_come_from_is_for_whoever_installs_them() -> None:
    for text in (LOCK, RANGES, (REPOSITORY / "requirements-dev.txt").read_text()):
        assert "://" not in text
        assert not re.search(r"^\s*(-i|-f|--(extra-)?index-url|--find-links|--trusted-host)\b", text, re.MULTILINE)
