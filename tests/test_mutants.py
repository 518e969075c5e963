"""The list of mutants fits the source, and what judges them sees the mutant and not the original."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from electorate.errors import UserError
from tests.mutants import LIST, ROOT, Death, Mutant, Verdict, asked, copy, mutants, run, table

CORE = ROOT / "src" / "electorate" / "core"


def test_every_mutant_applies_and_is_a_program(tmp_path: Path) -> None:
    for mutant in mutants():
        shutil.copy(CORE / mutant.file, tmp_path)
        mutant.apply(tmp_path)
        compile((tmp_path / mutant.file).read_text(), mutant.name, "exec")


def test_no_mutant_is_named_or_made_twice() -> None:
    every = mutants()
    assert max(Counter(mutant.name for mutant in every).values()) == 1
    assert max(Counter((mutant.file, mutant.old, mutant.new) for mutant in every).values()) == 1


def test_every_module_that_decides_has_mutants() -> None:
    decides = {path.name for path in CORE.glob("*.py")} - {"__init__.py"}
    assert {mutant.file for mutant in mutants()} == decides


def test_a_text_that_is_gone_is_told(tmp_path: Path) -> None:
    shutil.copy(CORE / "elector.py", tmp_path)
    stale = Mutant("stale", "elector.py", "a rule", "this is nowhere", "pass")
    with pytest.raises(UserError, match=f"'stale'.* 0 times in elector.py.*{LIST.name}"):
        stale.apply(tmp_path)


def test_a_detector_runs_the_mutant(tmp_path: Path) -> None:
    place = copy(tmp_path)
    loud = Mutant("loud", "model.py", "a rule", "MAX_TERM: Term = 2**48", "MAX_TERM: Term = 7")
    loud.apply(place / "src" / "electorate" / "core")
    assert run(place, "-c", "from electorate.core.model import MAX_TERM as m; print(m)").stdout == "7\n"


@pytest.mark.parametrize("detector", ["check", "storm"])
def test_the_checker_and_the_storms_see_a_vote_that_is_not_saved(tmp_path: Path, detector: str) -> None:
    place = copy(tmp_path)
    [careless] = [mutant for mutant in mutants() if mutant.name == "back-without-save"]
    careless.apply(place / "src" / "electorate" / "core")
    assert asked(place, detector, ["raft"]).by.startswith("I4: raft")


def test_the_table_names_what_lives_and_why() -> None:
    dead, argued, hole = (Mutant(name, "node.py", f"rule of {name}", "a", "b") for name in ("x", "y", "z"))
    argued = Mutant("y", "node.py", "rule of y", "a", "b", equivalent="it costs time only")
    alive = Death("", 3.0)
    page = table(
        [
            (dead, Verdict("x", Death("test_x[a|b]", 1.0), alive, alive)),
            (argued, Verdict("y", alive, alive, alive)),
            (hole, Verdict("z", alive, alive, alive)),
        ]
    )
    assert "3 mutants, 1 killed; 2 live, 1 of them" in page
    assert "| x | rule of x | test_x[a\\|b] | 1 | - | 3 | - | 3 |" in page
    assert "- **y**: it costs time only" in page
    assert "- **z**: nobody has noticed" in page
