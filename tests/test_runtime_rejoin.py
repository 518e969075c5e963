"""A store that was lost, or put back from an old copy: over real connections, with real files."""

from __future__ import annotations

import re
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from electorate.core.model import Promise
from electorate.errors import UserError
from electorate.runtime import wire
from electorate.runtime.config import check
from electorate.runtime.host import Host
from electorate.runtime.store import Store
from tests.runtime_hosts import Cluster, E, cluster, crash, in_loop, until

SHORT = {"beat": 0.05, "lease": 0.3}


def leaders(at: Cluster) -> dict[int, set[str]]:
    """Who has led each term."""
    found: dict[int, set[str]] = {}
    for id, kind, what in at.events:
        if kind == "lease" and what["until"]:
            found.setdefault(what["term"], set()).add(id)
    return found


def counted(host: Host, *words: str) -> bool:
    return any(all(word in complaint for word in words) for complaint in host.ignored())


@in_loop
async def test_two_that_rejoin_do_not_take_each_others_ignorance_for_knowledge(tmp_path: Path) -> None:
    """c, d and e elect; c and e lose their stores and d is away, while a and b come for the first time. Only d
    knows the term in which c was elected."""
    async with cluster(tmp_path, ids="abcde", absent="abcde", timing=SHORT) as at:
        for id in "cde":
            await at.start(id)
        await at.agreed()
        for id in "cde":
            await crash(at, id)
        elected = leaders(at)
        for id in "ce":
            shutil.rmtree(tmp_path / id)
        for id in "abce":
            await at.start(id, rejoin=id in "ce")
        quiet = [at.hosts[id] for id in "ce"]
        await until(lambda: all(host.awaited == ("d",) for host in quiet))
        await until(
            lambda: all(
                link.connected for id in "ab" for link in at.hosts[id].links.values() if link.peer != "d"
            )
        )
        for host in quiet:
            assert host.waiting == (
                "it has lost its store: before it votes, it waits for d; none of them can be left out, because"
                " the rest could not tell all that was promised"
            )
            assert host.status()["awaits"] == ("d",)
        deadline = at.hosts["a"].loop.time() + 4 * SHORT["lease"]
        await until(lambda: at.hosts["a"].loop.time() > deadline)
        assert leaders(at) == elected, "a and b have tried since"

        await at.start("d")
        await at.agreed()
        await until(lambda: all(host.conditions.rejoin is None for host in quiet))
        assert all(len(by) == 1 for by in leaders(at).values())
        assert set(leaders(at)) > set(elected)


@pytest.mark.parametrize("starts", [1, 5])
@in_loop
async def test_an_old_copy_is_refused_however_often_it_has_started(tmp_path: Path, starts: int) -> None:
    async with cluster(tmp_path) as at:
        await at.agreed()
        await at.stop("c")
        shutil.copytree(tmp_path / "c", tmp_path / "old")
        await at.start("c")
        await at.agreed()
        await at.stop("c")
        shutil.rmtree(tmp_path / "c")
        shutil.copytree(tmp_path / "old", tmp_path / "c")
        for id in "ab":
            await at.stop(id)
        for _ in range(starts):
            await at.start("c")
            await at.stop("c")
        for id in "abc":
            await at.start(id)
        c = at.hosts["c"]
        assert c.started.incarnation == 2 + starts
        for other in "ab":
            await until(lambda other=other: counted(c, f"refused by {other}", "--rejoin"))  # type: ignore[misc]
            await until(lambda other=other: counted(at.hosts[other], "refusing c", "--rejoin"))  # type: ignore[misc]
            assert at.hosts[other].figures.refusals["lost_store"] > 0
        await at.agreed("a", "b")
        await at.stop("c")

        c = await at.start("c", rejoin=True)
        await at.agreed()
        assert not counted(at.hosts["a"], "refusing c: I have met incarnation", f"({c.started.incarnation})")
        await at.stop("c")
        await at.start("c")
        await at.agreed()


@in_loop
async def test_it_goes_on_rejoining_without_being_told_again(tmp_path: Path) -> None:
    async with cluster(tmp_path, timing=SHORT) as at:
        await at.agreed()
        for id in "abc":
            await at.stop(id)
        shutil.rmtree(tmp_path / "c")
        await at.start("c", rejoin=True)
        await until(lambda: at.hosts["c"].awaited == ("a", "b"))
        await at.stop("c")
        c = await at.start("c")
        await at.start("a")
        await until(lambda: c.awaited == ("b",))
        assert not any(host.is_leader(E) for host in at.hosts.values())
        await at.start("b")
        await until(lambda: c.conditions.rejoin is None)
        assert c.awaited is None and c.waiting is None
        await at.agreed()
        await at.stop("c")
        c = await at.start("c")
        assert c.node.rejoin is None


@in_loop
async def test_a_lost_store_begins_after_every_life_that_was_met(tmp_path: Path) -> None:
    async with cluster(tmp_path) as at:
        for _ in range(3):
            await at.agreed()
            await at.stop("c")
            await at.start("c")
        await at.agreed()
        met = at.hosts["c"].started
        assert met.incarnation == 4
        await until(lambda: all(at.hosts[id].known("c") == met for id in "ab"))
        await at.stop("c")
        shutil.rmtree(tmp_path / "c")
        c = await at.start("c", rejoin=True)
        await until(lambda: c.node.rejoin is None and c.started.incarnation == 5)
        assert met in c.chain
        await at.agreed()
        assert not counted(c, "--rejoin") and not any(counted(at.hosts[id], "--rejoin") for id in "ab")


@in_loop
async def test_who_is_named_as_gone_for_good_must_rejoin_itself(tmp_path: Path) -> None:
    async with cluster(tmp_path, ids="abcde", timing=SHORT) as at:
        await at.agreed()
        for id in "bc":
            await at.stop(id)
        shutil.rmtree(tmp_path / "c")
        c = await at.start("c", rejoin=True, without=["b"])
        await until(lambda: c.conditions.rejoin is None)
        assert all("b" in host.node.gone for host in at.hosts.values())
        await at.agreed()
        await at.stop("a")
        await at.start("a")
        assert "b" in at.hosts["a"].node.gone, "it is in the store"

        b = await at.start("b")
        for other in "acde":
            host = at.hosts[other]
            await until(lambda host=host: counted(host, "refusing b", "gone for good", "--rejoin"))  # type: ignore[misc]
            await until(lambda other=other: counted(b, f"refused by {other}", "gone for good"))  # type: ignore[misc]
        await at.stop("b")
        b = await at.start("b", rejoin=True)
        await until(lambda: b.conditions.rejoin is None)
        await at.agreed()
        await until(lambda: not any(host.node.gone for host in at.hosts.values()))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"without": ["b"]}, "give --rejoin, too"),
        ({"rejoin": True, "without": ["b"]}, r"--without b: then a can tell .* is not enough"),
        ({"rejoin": True, "without": ["c"]}, "--without c: it is no other voter"),
        ({"rejoin": True, "without": ["x"]}, "--without x: it is no other voter"),
    ],
)
def test_a_wish_that_cannot_be_is_refused_at_the_start(
    tmp_path: Path, options: dict[str, list[str]], sentence: str
) -> None:
    nodes = {id: f"127.0.0.1:{7400 + n}" for n, id in enumerate("abc")}
    with pytest.raises(UserError, match=sentence):
        Host(check({"cluster": "demo", "nodes": nodes}), "c", tmp_path, **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@in_loop
async def test_a_node_that_knows_thousands_of_long_names_can_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{n:06}-".ljust(200, "x") for n in range(6000)]
    for id in "ab":
        with closing(Store(tmp_path / id, "demo", id)) as store:
            store.commit(Promise(name, 7, "a", 0) for name in names)
    longest = 0
    encode = wire.encode

    def measured(content: wire.Content) -> bytes:
        nonlocal longest
        body = encode(content)
        longest = max(longest, len(body))
        return body

    monkeypatch.setattr(wire, "encode", measured)
    async with cluster(tmp_path, absent="c", timing={"beat": 0.1, "lease": 3.0}) as at:
        await at.agreed()
        c = await at.start("c", rejoin=True)
        await until(lambda: c.node.rejoin is None)
        assert all(c.node.elections[name].promise.term == 7 for name in names)
        await until(lambda: c.store.conditions.rejoin is None)
        await until(lambda: len(c.store.load()) >= 6000)
        assert 1 << 14 < longest < wire.FRAME_LIMIT / 4
        assert not any("frame" in complaint for host in at.hosts.values() for complaint in host.ignored())


@in_loop
async def test_who_runs_and_is_named_as_gone_is_cut_off_and_refused(tmp_path: Path) -> None:
    """The connections of b to those who answer c stand, and go on to stand unless they are broken."""
    async with cluster(tmp_path, ids="abcde", timing=SHORT) as at:
        await at.agreed()
        await at.stop("c")
        shutil.rmtree(tmp_path / "c")
        c = await at.start("c", rejoin=True, without=["b"])
        await until(lambda: c.conditions.rejoin is None)
        b = at.hosts["b"]
        for other in "acde":
            await until(lambda other=other: counted(b, f"refused by {other}", "gone for good"))  # type: ignore[misc]
            assert "b" not in at.hosts[other].incoming and not at.hosts[other].links["b"].connected
        await at.stop("b")
        await at.start("b", rejoin=True)
        await at.agreed()


@in_loop
async def test_an_old_copy_that_rejoins_forgets_whom_it_has_met(tmp_path: Path) -> None:
    """It remembers a start of b that only b's lost store had."""
    async with cluster(tmp_path, ids="abcde", timing=SHORT) as at:
        await at.agreed()
        await at.stop("c")
        shutil.copytree(tmp_path / "c", tmp_path / "copy")
        await at.start("c")
        await at.stop("b")
        await at.start("b")
        await at.agreed()
        for id in "cb":
            await at.stop(id)
        shutil.rmtree(tmp_path / "b")
        shutil.rmtree(tmp_path / "c")
        shutil.copytree(tmp_path / "copy", tmp_path / "c")
        b = await at.start("b", rejoin=True, without=["c"])
        await until(lambda: b.conditions.rejoin is None)
        c = await at.start("c", rejoin=True)
        await until(lambda: c.conditions.rejoin is None)
        await at.agreed()


@pytest.mark.parametrize(
    ("ids", "absent", "without", "hint"),
    [
        ("abcde", "e", "", "if one is gone for good, restart with --rejoin --without e"),
        ("abcde", "de", "", "if one is gone for good, restart with --rejoin --without d or --without e"),
        ("abcde", "de", "d", "none of them can be left out"),
        ("abc", "c", "", "none of them can be left out"),
    ],
)
@in_loop
async def test_only_those_are_named_that_can_be_left_out(
    tmp_path: Path, ids: str, absent: str, without: str, hint: str
) -> None:
    async with cluster(tmp_path, ids, absent=f"a{absent}", timing=SHORT) as at:
        a = await at.start("a", rejoin=True, without=without)
        waits = tuple(id for id in absent if id not in without)
        await until(lambda: a.awaited == waits)
        assert a.waiting and hint in a.waiting
        for line in re.findall(r"--without \S+", a.waiting):
            await at.stop("a")
            a = await at.start("a", rejoin=True, without=line.split()[1].split(","))
