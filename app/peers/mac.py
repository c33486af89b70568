"""Message authentication codes under the cluster's secret: HMAC-SHA256 of the standard library.

`hmac` is imported only where there is a secret: it brings OpenSSL's library with it, 3.8 MiB of resident memory that
are worth more as room for values.
"""

from typing import Final

MAC_BYTES: Final = 32


class Mac:
    """Makes and checks codes for one purpose: `label` keeps those of different purposes apart."""

    def __init__(self, secret: bytes, label: bytes) -> None:
        import hmac

        assert secret
        self._digest = hmac.digest
        self._are_equal = hmac.compare_digest
        self._key = hmac.digest(secret, label, "sha256")

    def of(self, data: bytes, size: int = MAC_BYTES) -> bytes:
        """The code of the data, cut to `size` bytes."""
        return self._digest(self._key, data, "sha256")[:size]

    def fits(self, data: bytes, given: bytes) -> bool:
        """Whether `given` is the data's code of its length; takes the same time wherever they differ."""
        return self._are_equal(self.of(data, len(given)), given)
