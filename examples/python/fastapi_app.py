"""A shared cache behind FastAPI: fastapi run fastapi_app.py. One client for all tasks, made in their event loop."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request, Response
from kvcluster import AsyncClient, KVError


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with AsyncClient(os.environ.get("KV_SERVER", "127.0.0.1:3331").split(","), timeout_s=2.0) as client:
        app.state.kv = client
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/{key}")
async def read(key: str) -> Response:
    kv: AsyncClient = app.state.kv
    found = await kv.get(key.encode(), None)
    if found is None:
        raise HTTPException(404)
    return Response(found.value)


@app.put("/{key}", status_code=204)
async def write(key: str, request: Request) -> None:
    kv: AsyncClient = app.state.kv
    await kv.put(key.encode(), await request.body())


@app.exception_handler(KVError)
async def failed(request: Request, error: Exception) -> Response:
    return Response(str(error), 503)
