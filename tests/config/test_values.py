"""What settings take: sizes, as they are typed and shown. Bounds are tried with their options (test_options.py)."""

import pytest

from app.config.values import parse_size, show_size

MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("1", 1),
        ("134217728", 128 * MIB),
        ("1B", 1),
        ("1kB", 1000),
        ("1KB", 1000),
        ("64MB", 64_000_000),
        ("64 MB", 64_000_000),
        ("2gb", 2_000_000_000),
        ("1k", 1024),
        ("1KiB", 1024),
        ("64M", 64 * MIB),
        ("64MiB", 64 * MIB),
        ("64mib", 64 * MIB),
        ("1G", 1024 * MIB),
        ("1GiB", 1024 * MIB),
        ("1.5GiB", 1536 * MIB),
        ("0.1MB", 100_000),
        ("1.9", 1),
    ],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "MB",
        "x",
        "1TB",
        "1 0",
        "-1",
        "+1",
        "1e6",
        "1,5GB",
        ".5MB",
        "1.MB",
        "0x10",
        "1_000",
        "1" * 16,
        "\u0661",
    ],
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="isn't a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [
        (0, "0"),
        (1, "1"),
        (1023, "1023"),
        (1024, "1KiB"),
        (128 * MIB, "128MiB"),
        (1536 * MIB, "1536MiB"),
        (1 << 30, "1GiB"),
    ],
)
def test_sizes_are_shown_as_one_would_type_them(size_bytes: int, shown: str) -> None:
    assert show_size(size_bytes) == shown
    assert parse_size(shown) == size_bytes
