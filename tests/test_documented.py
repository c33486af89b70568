"""What operators are told: every log line, counter, option and drop reason of the code is in the documents."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.config.options import settings
from app.observe.counters import DROP_REASONS
from tests.test_imports import MODULES
from tools.kv.arguments import parser

REPOSITORY = Path(__file__).parent.parent
LEVELS = ("debug", "info", "warning", "error", "exception")
# What the log says by itself.
OF_THE_LOG = {"logs.dropped", "logs.unprintable"} | {
    f"process.{event}" for event in ("uncaught", "thread_died", "unraisable", "printed")
}
DOCUMENTS = (
    REPOSITORY / "README.md",
    REPOSITORY / "CHANGELOG.md",
    REPOSITORY / "CONTRIBUTING.md",
    REPOSITORY / "SECURITY.md",
    REPOSITORY / "examples" / "README.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
)
LOGS = (REPOSITORY / "docs" / "logs-and-counters.md").read_text()


def events() -> Iterator[tuple[str, str]]:
    """Each line that the code can log, as component.event, with its level (? where that depends)."""
    for path in MODULES.values():
        tree = ast.parse(path.read_text())
        component = ""
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and re.match(r"logs\.(limited_)?logger\(", ast.unparse(node.value)):
                assert isinstance(node.value, ast.Call)
                component = ast.literal_eval(node.value.args[0])
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if re.search(rf"\b(_log|_faults)\.({'|'.join(LEVELS)})\b", called):
                levels = set(re.findall(rf"\.({'|'.join(LEVELS)})\b", called))
                level = "error" if levels == {"exception"} else levels.pop() if len(levels) == 1 else "?"
                yield f"{component}.{ast.literal_eval(node.args[0])}", level


def rows() -> dict[str, str]:
    """The documented levels, by event."""
    found: dict[str, str] = {}
    for names, level in re.findall(r"^\| ([a-z_.]+(?:, [a-z_.]+)*) \| ([a-z, ]+) \|", LOGS, re.MULTILINE):
        found |= {name: level for name in names.split(", ") if "." in name}
    return found


def test_every_log_line_is_documented_with_its_level() -> None:
    emitted = dict(events())
    assert len(emitted) > 15
    documented = rows()
    assert set(documented) == set(emitted) | OF_THE_LOG
    for event, level in emitted.items():
        assert level == "?" or level in documented[event], event


@pytest.mark.parametrize("reason", DROP_REASONS)
def test_every_reason_to_drop_is_documented(reason: str) -> None:
    assert re.search(rf"\b{reason}\b", (REPOSITORY / "docs" / "protocol.md").read_text())


def test_links_between_the_documents_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", document.read_text()):
            if "://" in target:
                continue
            path = (document.parent / target).resolve() if target else document
            assert path.exists(), f"{document.name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
                anchors = [re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-") for heading in headings]
                assert anchor in anchors, f"{document.name}: {target}#{anchor}"


def test_the_files_and_programs_that_documents_name_exist() -> None:
    named: dict[str, str] = {}
    for document in (*DOCUMENTS, REPOSITORY / "Makefile", REPOSITORY / "Dockerfile"):
        text = document.read_text()
        found = re.findall(r"(?<![\w/.])((?:app|examples|tests|tools|deploy|docs|\.ci)/[\w./@-]*\w/?)", text)
        found += [name.replace(".", "/") for name in re.findall(r"-m ((?:app|tests|tools)[\w.]*)", text)]
        named |= dict.fromkeys(found, document.name)
    assert {"tools/kv.py", "tools/bench/suite", "app/main.py"} <= named.keys()
    missing = [name for name in named if not (REPOSITORY / name).exists() and not (REPOSITORY / f"{name}.py").exists()]
    assert {name: named[name] for name in missing} == {}


def test_every_command_of_kv_is_documented() -> None:
    (commands,) = (action.choices for action in parser()._actions if action.dest == "command")
    text = (REPOSITORY / "docs" / "tools.md").read_text()
    (table,) = re.findall(r"^\| command \| also \|(?:.*\n)+?\n", text, re.MULTILINE)
    cells = re.findall(r"^\| ([^|]+) \| ([^|]*)\|", table, re.MULTILINE)[1:]
    named = {name.split()[0] for row in cells for cell in row for name in cell.split(",") if name.strip()}
    assert named == set(commands or ())


def test_the_options_that_documents_name_exist() -> None:
    options = {setting.option for _, setting in settings()}
    variables = {setting.variable for _, setting in settings()} | {"KV_CLUSTER_SECRET", "KV_CLUSTER_SECRET_FILE"}
    variables |= {"KV_PUBLISH", "KV_MEMORY_LIMIT"}  # of the compose files
    others = {"--help", "--members", "--timeout", "--given-only", "--force", "--json", "--version"}  # kv.py's
    others |= {"--rm", "--build", "--system", "--require-hashes", "--only-binary", "--from-literal"}  # not ours
    text = "".join((REPOSITORY / "docs" / name).read_text() for name in ("operations.md", "security.md", "faq.md"))
    assert set(re.findall(r"(?<![-\w])--[a-z][a-z-]*", text)) - options == others
    assert set(re.findall(r"\bKV_[A-Z_]+\b", text)) - variables == set()
