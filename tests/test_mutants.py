"""The list of mutants fits the source, and what judges them sees the mutant and not the original."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from electorate.errors import UserError
from tests import mutants as tool
from tests.mutants import (
    LIST,
    ROOT,
    TESTS,
    Death,
    Mutant,
    Verdict,
    asked,
    complaint,
    copy,
    mutants,
    run,
    table,
)

PACKAGE = ROOT / "src" / "electorate"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The modules that are weakened, in a place of their own."""
    for file in {mutant.file for mutant in mutants()}:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PACKAGE / file, tmp_path / file)
    return tmp_path


def test_every_mutant_applies_and_is_a_program(package: Path) -> None:
    for mutant in mutants():
        original = (package / mutant.file).read_text()
        mutant.apply(package)
        compile((package / mutant.file).read_text(), mutant.name, "exec")
        (package / mutant.file).write_text(original)


def test_every_mutant_meets_the_tests_of_its_room() -> None:
    for room in {mutant.room for mutant in mutants()}:
        assert TESTS[room]
        assert all((ROOT / f"tests/test_{name}.py").exists() for name in TESTS[room])


def test_no_mutant_is_named_or_made_twice() -> None:
    every = mutants()
    assert max(Counter(mutant.name for mutant in every).values()) == 1
    assert max(Counter((mutant.file, mutant.old, mutant.new) for mutant in every).values()) == 1


def test_every_module_that_decides_has_mutants() -> None:
    decides = {f"core/{path.name}" for path in (PACKAGE / "core").glob("*.py")} - {"core/__init__.py"}
    assert {mutant.file for mutant in mutants()} >= decides


def test_a_text_that_is_gone_is_told(package: Path) -> None:
    stale = Mutant("stale", "core/elector.py", "a rule", "this is nowhere", "pass")
    with pytest.raises(UserError, match=f"'stale'.* 0 times in core/elector.py.*{LIST.name}"):
        stale.apply(package)


def test_a_detector_runs_the_mutant(tmp_path: Path) -> None:
    place = copy(tmp_path)
    loud = Mutant("loud", "core/model.py", "a rule", "MAX_TERM: Term = 2**48", "MAX_TERM: Term = 7")
    loud.apply(place / "src" / "electorate")
    assert run(place, "-c", "from electorate.core.model import MAX_TERM as m; print(m)").stdout == "7\n"


@pytest.mark.parametrize("detector", ["check", "storms"])
def test_the_checker_and_the_storms_see_a_vote_that_is_not_saved(tmp_path: Path, detector: str) -> None:
    place = copy(tmp_path)
    [careless] = [mutant for mutant in mutants() if mutant.name == "back-without-save"]
    careless.apply(place / "src" / "electorate")
    assert asked(place, detector, ["raft"]).by.startswith("I4: raft")


ALIVE = Death("", 3.0)


def verdict(killed_by: str = "", alike: bool = False) -> Verdict:
    return Verdict("digest", Death(killed_by, 1.0), ALIVE, ALIVE, alike)


def mutant(name: str, **excuse: str) -> Mutant:
    return Mutant(name, "core/node.py", f"rule of {name}", "a", "b", **excuse)  # type: ignore[arg-type]


def test_the_table_names_what_lives_and_why() -> None:
    every = [mutant("x"), mutant("y", harmless="it costs time only"), mutant("z"), mutant("later")]
    page = table(every, {"x": verdict("test_x[a|b]"), "y": verdict(), "z": verdict()})
    assert "3 mutants, 1 killed; 2 live, 1 of them for the reason given below. 1 are not judged yet." in page
    assert "| x | rule of x | test_x[a\\|b] | 1 | - | 3 | - | 3 |" in page
    assert "- **y**: it costs time only" in page
    assert "- **z**: nobody has noticed" in page
    assert f"storms got\n{tool.STORMS:.0f} s" in page


@pytest.mark.parametrize(
    ("judged", "found", "wrong"),
    [
        (mutant("x"), verdict("test_x"), ""),
        (mutant("x"), verdict(), "nobody has noticed: a hole."),
        (mutant("x", harmless="slow"), verdict(), ""),
        (mutant("x", harmless="slow"), verdict("test_x"), "it is noticed, so it is not as is said: slow"),
        (mutant("x", equivalent="same"), verdict(alike=True), ""),
        (mutant("x", equivalent="same"), verdict("test_x"), "it is noticed, so it is not as is said: same"),
        (
            mutant("x", equivalent="same"),
            verdict(),
            "it does what the original does not, so this is no reason: same",
        ),
    ],
)
def test_an_excuse_must_be_true(judged: Mutant, found: Verdict, wrong: str) -> None:
    assert complaint(judged, found) == wrong


def test_a_verdict_is_not_used_for_another_source_or_mutant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = copy(tmp_path / "place")
    before = tool.surroundings(place)
    assert before == tool.surroundings(copy(tmp_path / "again"))
    for file in ("src/electorate/core/elector.py", "tests/table.py"):
        changed = copy(tmp_path / Path(file).stem)
        with (changed / file).open("a") as text:
            text.write("\n")
        assert tool.surroundings(changed) != before
    monkeypatch.setattr(tool, "VERDICTS", tmp_path)
    kept = Verdict(tool.digest(mutant("x")), ALIVE, ALIVE, ALIVE)
    (tmp_path / "x.json").write_bytes(msgspec.json.encode(kept))
    for judged, known in ((mutant("x"), {"x": kept}), (mutant("x", harmless="it costs time"), {})):
        monkeypatch.setattr(tool, "mutants", lambda judged=judged: [judged])
        assert tool.known() == known


def test_the_page_tells_no_excuse_that_is_not_true() -> None:
    """Who is said to live for a reason is not told to have been killed."""
    lines = {line.split(" | ")[0].lstrip("| "): line for line in tool.TABLE.read_text().splitlines()}
    for excused in (mutant for mutant in mutants() if mutant.excuse and mutant.name in lines):
        killed_by = lines[excused.name].split(" | ")[2:8:2]
        assert set(killed_by) <= {"-", "not run"}, excused.name
