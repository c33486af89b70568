"""The generated code in the repository is what protoc makes of proto/."""

import subprocess
import sys
from pathlib import Path

from tests.support.nodes import REPOSITORY


def test_proto_gen_is_what_protoc_makes_of_proto(tmp_path: Path) -> None:
    sources = sorted(str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "proto").glob("*.proto"))
    out = [f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-Iproto", *out, *sources],
        cwd=REPOSITORY,
        timeout=60,
        check=True,
    )
    committed = REPOSITORY / "proto_gen"
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    there = {path.name: path.read_bytes() for path in committed.glob("*_pb2.py*")}
    assert made.keys() == there.keys()
    assert len(made) == 2 * len(sources)
    for name, content in made.items():
        assert content == there[name], f"{name} differs: make proto"
