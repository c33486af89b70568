"""cachetools' own tests of its LRUCache, with the compiled slot in its place: it is one in everything.

They are in cachetools' source distribution, not in what is installed. pip fetches that of the installed version, once:
it is kept in pytest's cache directory. Where it can't be had, this is skipped.
"""

import importlib.util
import subprocess
import sys
import tarfile
import unittest
from pathlib import Path
from types import ModuleType

import cachetools
import pytest

import app.storage.slots
from app.fast import PIECES

PURE, SLOT = PIECES["slots.Slot"]
FETCH_TIMEOUT_S = 60
LEAST_TESTS = 30  # as many as there were

pytestmark = pytest.mark.skipif(SLOT is PURE, reason="app/fast/slots is not built")
assert app.storage.slots.Slot is SLOT


def source_of(directory: Path) -> Path:
    """The unpacked source distribution; skips where it can't be had."""
    unpacked = directory / f"cachetools-{cachetools.__version__}"
    if not unpacked.is_dir():
        wanted = f"cachetools=={cachetools.__version__}"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        try:
            subprocess.run(
                [*command, "--dest", str(directory), wanted], timeout=FETCH_TIMEOUT_S, check=True, capture_output=True
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"pip can't fetch the source distribution of {wanted}: {error}")
        with tarfile.open(next(directory.glob("*.tar.gz"))) as archive:
            archive.extractall(directory, filter="data")
    return unpacked


def module_of(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        name, path, submodule_search_locations=[str(path.parent)] if path.name == "__init__.py" else None
    )
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_compiled_slot_passes_the_tests_that_cachetools_has_for_its_lru_cache(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.cache is not None
    tests = source_of(pytestconfig.cache.mkdir("cachetools")) / "tests"
    names = ("cachetools_tests", "cachetools_tests.test_lru")
    try:
        module_of(names[0], tests / "__init__.py")
        module = module_of(names[1], tests / "test_lru.py")
        module.LRUCache = module.LRUCacheTest.Cache = SLOT  # type: ignore[attr-defined]
        suite = unittest.defaultTestLoader.loadTestsFromTestCase(module.LRUCacheTest)
        result = suite.run(unittest.TestResult())
    finally:
        for name in names:
            sys.modules.pop(name, None)
    assert [text for _, text in (*result.failures, *result.errors)] == []
    assert not result.skipped
    assert result.testsRun >= LEAST_TESTS
