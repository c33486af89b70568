"""Files read at the start and again: the second time nothing is waited for."""

import os
from pathlib import Path

import pytest

from app.config import files


def test_the_first_bytes_of_a_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abcd")
    for again in (False, True):
        data, status = files.read(str(path), 3, again=again)
        assert (data, status.st_size) == (b"abc", 4)


def test_a_pipe_can_not_be_read_again(tmp_path: Path) -> None:
    """One that nobody writes would be waited for, for ever."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(OSError, match="can't be read again") as caught:
        files.read(str(path), 3, again=True)
    assert caught.value.strerror


@pytest.mark.parametrize("again", [False, True])
def test_what_is_not_there_is_an_error(tmp_path: Path, again: bool) -> None:
    with pytest.raises(FileNotFoundError):
        files.read(str(tmp_path / "none"), 3, again=again)
    with pytest.raises(ValueError, match="null byte"):
        files.read("a\0b", 3, again=again)
