"""A shared cache behind Flask: flask --app flask_app run. One client for all threads of the process."""

import os

from flask import Flask, abort, request
from kvcluster import Client, InvalidKey, InvalidValue, KVError
from werkzeug.wrappers import Response

app = Flask(__name__)
kv = Client(os.environ.get("KV_SERVER", "127.0.0.1:3331").split(","), timeout_s=2.0)


@app.get("/<key>")
def read(key: str) -> Response:
    found = kv.get(key.encode(), None)
    if found is None:
        abort(404)
    return Response(found.value, headers={"ETag": f'"{found.version}"'})


@app.put("/<key>")
def write(key: str) -> Response:
    kv.put(key.encode(), request.get_data(), version=request.args.get("version", 0, type=int))
    return Response(status=204)


@app.errorhandler(KVError)
def failed(error: KVError) -> tuple[str, int]:
    """The caller's mistake is a 400; that the store does not answer, or is full, a 503."""
    return str(error), 400 if isinstance(error, InvalidKey | InvalidValue) else 503
