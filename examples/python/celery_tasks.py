"""Tasks that keep what they have worked out in the store: celery -A celery_tasks worker.

The client is made before Celery forks its workers; each of them opens sockets of its own with its first call.
"""

import hashlib
import os

from celery import Celery
from kvcluster import Client, Overloaded, Timeout

app = Celery("tasks", broker=os.environ.get("BROKER", "redis://localhost"))
kv = Client(os.environ.get("KV_SERVER", "127.0.0.1:3331").split(","))


# A call that is made again is a new request: here that does no harm, since the same value is stored under the same key.
@app.task(autoretry_for=(Timeout, Overloaded), retry_backoff=True, max_retries=5)
def thumbnail(path: str) -> str:
    """The key of what is stored for this file."""
    with open(path, "rb") as file:
        key = hashlib.sha256(file.read()).digest()  # 32 bytes, as long as a key may be
    if kv.get(key, None) is None:
        kv.put(key, made_of(path))
    return key.hex()


def made_of(path: str) -> bytes:
    return path.encode()  # in place of something that takes long
