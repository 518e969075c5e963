"""What is published about elections holds here: each rule is a case of a script in `conformance/`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conformance.script import PAGE, SCRIPTS, Entry, Mistake, page, play, read

ENTRIES = {path.name: read(path) for path in SCRIPTS}
ALL = [entry for entries in ENTRIES.values() for entry in entries]
CASES = [entry for entry in ALL if entry.kind == "case"]
ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.file}: {case.title}")
def test_a_rule_as_it_is_published(case: Entry) -> None:
    play(case, ENTRIES[case.file])


def test_every_rule_has_a_source_and_what_tells_it() -> None:
    needed = {"case": {"source"}, "told": {"source", "test"}, "not here": {"source", "why"}}
    assert [entry for entry in ALL if not needed[entry.kind] <= entry.heads.keys()] == []
    assert [entry for entry in ALL if bool(entry.steps) is not (entry.kind == "case")] == []
    assert len({(entry.file, entry.title) for entry in ALL}) == len(ALL) > 150
    for entry in ALL:
        if test := entry.heads.get("test"):
            file, name = test.split("[")[0].split("::")
            assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE), test


def test_the_page_is_what_the_scripts_say() -> None:
    assert PAGE.read_text("utf-8") == page(ENTRIES), "run: python -m tests.conformance.script"


def tampered(tmp_path: Path, text: str) -> None:
    path = tmp_path / "wrong.txt"
    path.write_text("case: it is wrong\nsource: nobody\n" + text)
    entries = read(path)
    play(entries[0], entries)


RIGHT = """\
    nodes a of a b c, raft
    b -> a  RequestVote term=1
    a saves term=1 backed=b
    a -> b  Accept term=1
    a is follower term=1
"""


@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    [
        ("backed=b", "backed=c", "wrong.txt:5, .* backed is 'b'"),
        ("    a saves term=1 backed=b\n", "", "a has said nothing to b; it waits for its disk"),
        ("Accept term=1", "Accept term=2", "term is 1"),
        ("Accept term=1", "Refuse", "a says to b: Accept"),
        ("    a -> b  Accept term=1\n", "", "not expected: a -> b  Accept"),
        ("is follower", "is candidate", "role is <Role.FOLLOWER"),
        ("is follower term=1", "leads", "its lease lasts until -inf"),
        ("is follower term=1", "fires campaign", "no such timer"),
        ("is follower term=1", "dances", "not a step"),
        ("RequestVote term=1", "RequestVote trem=1", "no field 'trem'"),
        ("RequestVote term=1", "RequestVotes term=1", "no message is named"),
        ("b -> a", "x -> a", "there is no node 'x'"),
        ("a is follower term=1", "a ignored a joke", "it has ignored"),
        ("a is follower term=1", "a waits silence 0 1", "no such timer"),
        ("raft", "raft colour=red", "colour"),
    ],
)
def test_what_is_not_so_is_noticed(tmp_path: Path, right: str, wrong: str, says: str) -> None:
    tampered(tmp_path, RIGHT)
    with pytest.raises(Mistake, match=says):
        tampered(tmp_path, RIGHT.replace(right, wrong, 1))


def test_what_was_ignored_before_the_last_event_is_no_news(tmp_path: Path) -> None:
    ignored = "    b -> a  Accept term=9\n    a ignored an Accept of what I have never claimed\n"
    tampered(tmp_path, RIGHT + ignored)
    later = ignored.replace("    a ignored", "    after 1\n    a ignored")
    with pytest.raises(Mistake, match=r"it has ignored \{\}"):
        tampered(tmp_path, RIGHT + later)


def test_what_is_left_at_the_end_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="at its end: not expected"):
        tampered(tmp_path, "\n".join(RIGHT.splitlines()[:3]) + "\n")
    with pytest.raises(Mistake, match="neither a head nor a step"):
        tampered(tmp_path, "nonsense\n")
