"""The tool that asks whether the tests notice: which changes it makes, what it draws, and how it tries them."""

import textwrap
from pathlib import Path

import pytest

from app import fast
from tests.mutants.__main__ import equivalents, mutant, sample
from tests.mutants.changes import applied, sites
from tests.mutants.trials import REPOSITORY, Tree, Unusable, Verdict, name, steps_for


def changed(source: str, kind: str) -> list[str]:
    """What each change of one kind makes of a source."""
    return [applied(source, change) for site in sites(source) for change in site if change.kind == kind]


def body(line: str, returns: str = "int") -> str:
    """A function of one line, with an end that no change is asked of."""
    return f"def f(a, b, c) -> {returns}:\n    {line}\n"


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("comparison", "g(a < b)", ["g(a <= b)", "g(a >= b)"]),
        ("comparison", "g(a <= b)", ["g(a < b)", "g(a > b)"]),
        ("comparison", "g(a > b)", ["g(a >= b)", "g(a <= b)"]),
        ("comparison", "g(a >= b)", ["g(a > b)", "g(a < b)"]),
        ("comparison", "g((a) == (b))", ["g((a) != (b))"]),
        ("comparison", "g(a != b)", ["g(a == b)"]),
        ("comparison", "g(a is b)", ["g(a is not b)"]),
        ("comparison", "g(a is  not b)", ["g(a is b)"]),
        ("comparison", "g(a in b)", ["g(a not in b)"]),
        ("comparison", "g(a not in b)", ["g(a in b)"]),
        ("comparison", "g(0 < a <= b)", ["g(0 <= a <= b)", "g(0 >= a <= b)", "g(0 < a < b)", "g(0 < a > b)"]),
        ("and/or", "g(a and b and c)", ["g(a or b and c)", "g(a and b or c)"]),
        ("and/or", "g(a or b)", ["g(a and b)"]),
        ("arithmetic", "g(a + b)", ["g(a - b)"]),
        ("arithmetic", "g(a - (b))", ["g(a + (b))"]),
        ("arithmetic", "g(a << b)", ["g(a >> b)"]),
        ("arithmetic", "g(a & b)", ["g(a | b)"]),
        ("arithmetic", "a += b", ["a -= b", "a = b"]),
        ("not dropped", "g(not a)", ["g((a))"]),
        ("not dropped", "g(-a)", ["g((a))"]),
        ("not dropped", "g(~a)", ["g((a))"]),
        ("constant", "g(7)", ["g(8)", "g(6)"]),
        ("constant", "g(0)", ["g(1)", "g(-1)"]),
        ("constant", "g(0.5)", ["g(1.0)", "g(0.25)"]),
        ("constant", "g(key=True)", ["g(key=False)"]),
        ("min/max", "g(min(a, b))", ["g(max(a, b))"]),
        ("min/max", "g(all(a))", ["g(any(a))"]),
        ("arguments", "g(a, b, c)", ["g(b, a, c)", "g(a, c, b)"]),
        ("arguments", "g(a, *b)", []),
        ("arguments", "g(min(a, b))", []),
        ("arguments", "g(a, a)", []),
        ("condition", "g(a if b else c)", ["g(a if True else c)", "g(a if False else c)"]),
        ("statement dropped", "g(a)", ["pass"]),
        ("statement dropped", "a.b = c", ["pass"]),
        ("statement dropped", "a[b] = c", ["pass"]),
        ("statement dropped", "a = a or c", ["pass"]),
        ("statement dropped", "a = c", []),
        ("statement dropped", "a += c", ["pass"]),
        ("statement dropped", "del a[b]", ["pass"]),
        ("raise dropped", "raise a", ["pass"]),
        ("returned value", "return a", ["return (a) + 1"]),
    ],
)
def test_a_change_is_of_one_token_or_one_statement(kind: str, before: str, after: list[str]) -> None:
    assert changed(body(before), kind) == [body(line) for line in after]


@pytest.mark.parametrize(
    ("returns", "instead"),
    [("bool", "not (a)"), ("list[int]", "[]"), ("bytes", 'b""'), ("int | None", "None"), ("Thing", "None")],
)
def test_a_returned_value_becomes_another_of_its_type(returns: str, instead: str) -> None:
    assert changed(body("return a", returns), "returned value") == [body(f"return {instead}", returns)]


def test_an_empty_value_that_is_returned_is_not_replaced_by_itself() -> None:
    assert changed(body("return []", "list[int]"), "returned value") == []


def test_statements_of_a_block_are_changed_where_they_stand() -> None:
    source = textwrap.dedent(
        """\
        def f(a):
            while a:  # as long as there is some
                if a.b < 1:
                    continue
                elif a.c:
                    break
                if (d := a.e) > 1:
                    return
            return None
        """
    )
    assert changed(source, "loop") == [
        source.replace("continue", "break"),
        source.replace("continue", "pass"),
        source.replace("break", "continue"),
        source.replace("break", "pass"),
    ]
    assert changed(source, "condition") == [
        source.replace("while a:", "while False:"),
        source.replace("a.b < 1", "True"),
        source.replace("a.b < 1", "False"),
        source.replace("elif a.c", "elif True"),
        source.replace("elif a.c", "elif False"),
    ]
    assert changed(source, "return dropped") == [source.replace("    return\n", "    pass\n")]


def test_a_coroutine_is_changed_as_a_function_is() -> None:
    source = "async def f(a: int = 1) -> bool:\n    await g(a)\n    return a\n"
    assert [applied(source, change) for site in sites(source) for change in site] == [
        source.replace("= 1", "= 2"),
        source.replace("= 1", "= 0"),
        source.replace("await g(a)", "pass"),
        source.replace("return a", "return not (a)"),
    ]


def test_the_default_of_a_parameter_is_changed() -> None:
    source = "def f(a=1, *, b=False):\n    ...\n"
    assert changed(source, "constant") == [
        source.replace("1", "2"),
        source.replace("1", "0"),
        source.replace("False", "True"),
    ]


def test_bytes_that_are_more_than_a_character_move_nothing() -> None:
    source = 'def f(a):\n    """Takes 3 µs."""\n    g("µ", a < 1)  # 1 µs\n'
    assert changed(source, "comparison") == [source.replace("<", "<="), source.replace("<", ">=")]


def test_a_comment_between_operands_is_no_operator() -> None:
    source = "def f(a):\n    g(\n        a  # < is meant\n        < 1\n    )\n"
    assert changed(source, "comparison")[0] == source.replace("        < 1", "        <= 1")


@pytest.mark.parametrize(
    "source",
    [
        '"""A docstring."""\n',
        'def f():\n    """Another."""\n',
        "def f(a: int | None, b: Literal[1]) -> Literal[2]:\n    ...\n",
        "def f(a):\n    b: Literal[1] = a\n",
        "def f(a):\n    assert a < 1, a + 1\n",
        'def f(a):\n    _log.info("heard", number=a + 1)\n',
        'def f(a):\n    (_faults.warning if a else _log.info)("heard", number=a + 1)\n',
        "class A(Protocol):\n    def f(self, a: int = 1) -> int:\n        return a + 1\n",
        "class A(Protocol[B]):\n    b = 1\n",
        'class A:\n    __slots__ = ("a", "b") + B\n',
        "class A:\n    def __repr__(self):\n        return self.a + 1\n",
        "class A:\n    def __init__(self, b):\n        self.a = b\n",
        "@cache(1)\nclass A(B[1]):\n    ...\n",
        "if TYPE_CHECKING:\n    A = 1\n",
        'if __name__ == "__main__":\n    main(1)\n',
        "import a\nfrom b import c\n",
        "LIMIT_BYTES = 4 * KIB\n",
        "_PATIENCE_S: Final = 1.5\n",
        "Address = tuple[int, int] | None\n",
    ],
)
def test_what_no_test_could_notice_is_left_alone(source: str) -> None:
    assert sites(source) == []


def test_of_a_raise_only_the_whole_is_changed() -> None:
    assert [site[0].kind for site in sites('def f(a):\n    raise B(f"of {a + 1}", a - 1)\n')] == ["raise dropped"]


def test_the_second_argument_of_isinstance_names_types() -> None:
    kinds = [site[0].kind for site in sites("def f(a):\n    g(isinstance(a, int | str))\n")]
    assert kinds == ["statement dropped"]


def test_module_level_constants_are_changed_on_request() -> None:
    assert [site[0].kind for site in sites("PUT = 1\n", settings_too=True)] == ["constant"]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A tree with a package of two files."""
    (tmp_path / "app" / "wire").mkdir(parents=True)
    (tmp_path / "app" / "small.py").write_text("def f(a, b):\n    if a < b:\n        g(a)\n    return a + b\n")
    (tmp_path / "app" / "wire" / "numbers.py").write_text("PUT = 1\nGET = 2\n")
    return tmp_path


def test_a_seed_draws_the_same_again_and_another_seed_others(small: Path) -> None:
    first = sample(7, 5, ["app"], small)
    assert len(first) == 5
    assert sample(7, 5, ["app"], small) == first
    assert any(sample(seed, 5, ["app"], small) != first for seed in range(8, 12))


def test_each_place_is_drawn_once_and_the_settings_of_the_protocol_too(small: Path) -> None:
    drawn = sample(1, 1000, ["app"], small)
    assert len({one.source for one in drawn}) == len(drawn)
    assert {one.before for one in drawn if one.path == "app/wire/numbers.py"} == {"PUT = 1", "GET = 2"}
    assert sorted(one.kind for one in drawn if one.path == "app/small.py") == [
        "arithmetic",
        "comparison",
        "condition",
        "returned value",
        "statement dropped",
    ]


def test_a_sample_is_drawn_from_the_paths_that_are_given(small: Path) -> None:
    assert {one.path for one in sample(1, 1000, ["app/wire"], small)} == {"app/wire/numbers.py"}
    assert {one.path for one in sample(1, 1000, ["app/small.py", "app"], small)} == {
        "app/small.py",
        "app/wire/numbers.py",
    }
    with pytest.raises(SystemExit, match="no such path"):
        sample(1, 1, ["app/gone"], small)


def test_a_mutant_is_shown_as_a_small_diff(small: Path) -> None:
    source = (small / "app" / "small.py").read_text()
    one = mutant("app/small.py", source, "comparison", source.replace("<", "<="))
    assert (one.line, one.before, one.after) == (2, "if a < b:", "if a <= b:")
    assert one.diff(small) == " def f(a, b):\n-    if a < b:\n+    if a <= b:\n         g(a)"


def test_a_file_s_own_tests_come_first_then_its_package_s() -> None:
    steps = steps_for("app/storage/store.py")
    assert [name(step) for step in steps][:3] == ["tests/storage/test_store.py", "tests/storage", "tests/requests"]
    assert steps[1] == steps_for("app/storage/arena.py")[1], "files of a package share that run"
    membership = [name(step) for step in steps_for("app/cluster/membership/leases.py")]
    assert membership[:3] == ["tests/cluster/membership/test_leases.py", "tests/cluster/membership", "tests/cluster"]
    assert "--ignore=tests/cluster/membership" in steps_for("app/cluster/membership/leases.py")[2]
    assert "tests.sim" in membership


def test_a_file_may_be_judged_by_the_tests_of_its_package_alone() -> None:
    assert [name(step) for step in steps_for("app/storage/store.py", own_only=True)] == [
        "tests/storage/test_store.py",
        "tests/storage",
    ]
    assert [name(step) for step in steps_for("app/cluster/membership/leases.py", own_only=True)] == [
        "tests/cluster/membership/test_leases.py",
        "tests/cluster/membership",
        "tests/cluster",
    ]


@pytest.mark.parametrize("path", sorted(str(path.relative_to(REPOSITORY)) for path in REPOSITORY.glob("app/**/*.py")))
def test_every_file_has_tests_that_exist(path: str) -> None:
    steps = steps_for(path)
    assert steps
    for step in steps:
        assert (REPOSITORY / name(step).replace(".", "/", name(step).count("tests."))).exists(), step


def test_every_equivalent_is_a_line_that_the_code_has_and_gives_its_reason() -> None:
    for (path, before, after), reason in equivalents().items():
        source = (REPOSITORY / path).read_text()
        assert reason, before
        assert any(
            (one.before, one.after) == (before, after)
            for site in sites(source, settings_too=True)
            for one in (mutant(path, source, change.kind, applied(source, change)) for change in site)
        ), f"{path}: {before} -> {after}"


FAILS = ("-c", "from app.wire.protocol import PUT; assert PUT == 1")
PASSES = ("-c", "import app.wire.protocol")
HANGS = ("-c", "from app.wire.protocol import PUT\nwhile PUT != 1: pass")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return Tree(tmp_path_factory.mktemp("tree"))


def test_a_mutant_is_what_is_tried_and_is_gone_afterwards(tree: Tree) -> None:
    source = (REPOSITORY / "app" / "wire" / "protocol.py").read_text()
    changed_source = source + "\nPUT = 2\n"
    assert tree.takes_s(FAILS) > 0
    assert tree.try_out("app/wire/protocol.py", changed_source, {PASSES: 0.1}) == Verdict("", "survived")
    assert tree.try_out("app/wire/protocol.py", changed_source, {PASSES: 0.1, FAILS: 0.1}).how == "failed"
    assert tree.takes_s(FAILS) > 0
    assert (REPOSITORY / "app" / "wire" / "protocol.py").read_text() == source


def test_a_mutant_that_hangs_is_noticed(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.mutants.trials._TIME_GRACE_S", 0.5)
    source = (REPOSITORY / "app" / "wire" / "protocol.py").read_text()
    assert tree.try_out("app/wire/protocol.py", source + "\nPUT = 2\n", {HANGS: 0.0}).how == "hung"


def test_it_is_the_python_that_is_tried_whatever_stands_in_for_it_elsewhere(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(fast.VARIABLE, "on")
    assert tree.takes_s(("-c", "from app import fast; assert (fast.CORE, fast.wrong()) == (fast.PYTHON, None)")) > 0


def test_tests_that_fail_without_a_change_judge_nothing(tree: Tree) -> None:
    with pytest.raises(Unusable, match="fails without any change"):
        tree.takes_s(("-c", "assert False"))
