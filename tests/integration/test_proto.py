"""The generated code in the repository is what protoc makes of proto/, and leaves other programs' names alone."""

import subprocess
import sys
from pathlib import Path

from tests.support.nodes import REPOSITORY, run_python

# As somebody's own program may have it, who has read docs/protocol.md or not.
OTHERS = {"message": ("Msg", "KVRequest"), "key_value": ("KVResponse", "View"), "cluster": ("Member",)}


def protoc(cwd: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *arguments], cwd=cwd, timeout=60, check=True)


def test_proto_gen_is_what_protoc_makes_of_proto(tmp_path: Path) -> None:
    sources = sorted(str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "proto").glob("*.proto"))
    protoc(REPOSITORY, "-Ikvcluster=proto", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", *sources)
    committed = REPOSITORY / "proto_gen"
    made = {path.name: path.read_bytes() for path in (tmp_path / "kvcluster").iterdir()}
    there = {path.name: path.read_bytes() for path in committed.glob("*_pb2.py*")}
    assert made.keys() == there.keys()
    assert len(made) == 2 * len(sources)
    for name, content in made.items():
        assert content == there[name], f"{name} differs: make proto"


def test_it_lives_beside_messages_and_files_of_the_same_names(tmp_path: Path) -> None:
    """protobuf has one pool of descriptors a process, which takes no name twice."""
    for name, messages in OTHERS.items():
        text = "".join(f"message {message} {{ string text = 1; }} " for message in messages)
        (tmp_path / f"{name}.proto").write_text(f'syntax = "proto3"; {text}')
    protoc(tmp_path, "-I.", "--python_out=.", *(f"{name}.proto" for name in OTHERS))
    program = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import message_pb2, key_value_pb2, cluster_pb2
from proto_gen import cluster_pb2, key_value_pb2 as ours, message_pb2 as our_message
print(message_pb2.Msg(text="a").text, our_message.Msg(messageID=b"b").messageID, ours.KVRequest(command=1).command)
"""
    done = run_python("-c", program)
    assert (done.stdout, done.stderr) == ("a b'b' 1\n", "")
