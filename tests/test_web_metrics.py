"""What a node measures, as Prometheus reads it."""

from __future__ import annotations

import asyncio
import json
import selectors
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from electorate.core.model import Role, View
from electorate.runtime import authority
from electorate.runtime.figures import BOUNDS, Figures, Histogram
from electorate.runtime.wire import VERSIONS, Greeting, Said
from electorate.web import pace
from tests.runtime_hosts import BOUND, E, in_loop, stranger, until
from tests.web_nodes import WebCluster, web_cluster

Samples = dict[str, float]


async def scrape(cluster: WebCluster, id: str, query: str = "") -> Samples:
    """The samples by name and labels, such as `electorate_term{election="main"}`."""
    answer = await cluster.get(id, f"/metrics{query}")
    assert answer.status_code == 200
    return {
        name_of(sample.name, sample.labels): sample.value
        for family in parse(answer.text)
        for sample in family.samples
    }


def name_of(name: str, labels: dict[str, str]) -> str:
    return name + json.dumps(labels) if labels else name


async def scraped(cluster: WebCluster, id: str, condition: Callable[[Samples], bool]) -> Samples:
    """Scrape until it is so."""
    async with asyncio.timeout(BOUND):
        while not condition(samples := await scrape(cluster, id)):
            pass
    return samples


@in_loop
async def test_who_leads(tmp_path: Path) -> None:
    async with web_cluster(tmp_path) as cluster:
        leader = await cluster.agreed()
        for id in cluster.hosts:
            samples = await scrape(cluster, id)
            leads = float(id == leader.id)
            assert samples['electorate_is_leader{"election": "main"}'] == leads
            assert samples['electorate_has_leader{"election": "main"}'] == 1
            assert samples['electorate_term{"election": "main"}'] == leader.tenure(E)[0]
            assert samples['electorate_role{"election": "main", "role": "leader"}'] == leads
            assert samples['electorate_role{"election": "main", "role": "follower"}'] == 1 - leads
            assert (0 < samples['electorate_lease_left_seconds{"election": "main"}'] <= 2.0) == bool(leads)
            since = samples['electorate_leader_since_timestamp_seconds{"election": "main"}']
            assert 0 <= time.time() - since < 600
            changes = samples['electorate_leader_changes_total{"election": "main"}']
            assert changes == cluster.hosts[id].figures.reigns["main"].changes
            assert samples["electorate_elections_led"] == leads
            assert samples["electorate_elections_leaderless"] == 0
            assert samples['electorate_elections{"role": "leader"}'] == leads
            assert samples["electorate_quorum_connected"] == 1
            assert all(
                samples[f'electorate_peer_connected{{"peer": "{peer}"}}'] == 1
                for peer in cluster.hosts.keys() - {id}
            )
            build = {"algorithm": "raft", "cluster": "demo", "version": "0.1.0"}
            assert samples[name_of("electorate_build_info", build)] == 1
            assert samples["process_resident_memory_bytes"] > 0


@pytest.mark.parametrize("algorithm", ["bully", "ring", "raft", "zab"])
@in_loop
async def test_elections_and_failovers_are_counted_and_timed(tmp_path: Path, algorithm: str) -> None:
    async with web_cluster(tmp_path, algorithm=algorithm) as cluster:
        first = await cluster.agreed()
        samples = await scrape(cluster, first.id)
        assert samples["electorate_elections_won_total"] == reported(cluster, first.id).elections["won"] >= 1
        assert samples["electorate_elections_started_total"] >= samples["electorate_elections_won_total"]
        assert samples["electorate_election_duration_seconds_count"] >= 1
        failovers = sum(reported(cluster, first.id).failover_time.counts)
        assert samples["electorate_failover_duration_seconds_count"] == failovers
        assert samples["electorate_store_commit_duration_seconds_count"] >= 1
        before = {id: await scrape(cluster, id) for id in cluster.hosts}
        await cluster.stop(first.id)
        second = await cluster.agreed()
        for id in cluster.hosts:
            samples = await scrape(cluster, id)
            more = {name: value - before[id][name] for name, value in samples.items() if name in before[id]}
            assert (more["electorate_elections_won_total"] > 0) >= (id == second.id)
            assert more["electorate_failover_duration_seconds_count"] >= 1
            assert more["electorate_failover_duration_seconds_sum"] > 0
            assert samples["electorate_elections_won_total"] == reported(cluster, id).elections["won"]
            assert samples[f'electorate_peer_connected{{"peer": "{first.id}"}}'] == 0
        won = await scrape(cluster, second.id)
        assert won["electorate_elections_started_total"] >= 1


def reported(cluster: WebCluster, id: str) -> Figures:
    """What all that this node has reported amounts to."""
    figures = Figures()
    for node, kind, what in cluster.events:
        if (node, kind) == (id, "view"):
            figures.changed(View(**what), 0.0)
    return figures


@in_loop
async def test_beats_and_round_trips_of_the_leader(tmp_path: Path) -> None:
    async with web_cluster(tmp_path, timing={"beat": 0.05, "lease": 2.0}) as cluster:
        leader = await cluster.agreed()
        peer, mute = sorted(cluster.hosts.keys() - {leader.id})
        answered = await scraped(
            cluster,
            leader.id,
            lambda samples: (
                samples[f'electorate_beats_sent_total{{"peer": "{peer}"}}'] > 3
                and f'electorate_peer_round_trip_seconds{{"peer": "{peer}"}}' in samples
            ),
        )
        assert 0 < answered[f'electorate_peer_round_trip_seconds{{"peer": "{peer}"}}'] < BOUND
        follower = await scrape(cluster, peer)
        assert follower[f'electorate_beats_sent_total{{"peer": "{mute}"}}'] == 0
        assert not any(name.startswith("electorate_peer_round_trip_seconds") for name in follower)

        transport = cluster.hosts[mute].incoming[leader.id].transport
        assert transport
        transport.pause_reading()
        missed = f'electorate_beats_missed_total{{"peer": "{mute}"}}'
        before = answered[missed]
        await scraped(cluster, leader.id, lambda samples: samples[missed] >= before + 3)


@in_loop
async def test_when_certificates_end(tmp_path: Path) -> None:
    certs = tmp_path / "certs"
    authority.make_authority("demo", certs, 20)
    for id in "abc":
        authority.issue_certificate(id, certs, 20)
    files = {"ca": "ca.pem", "cert": "{id}.pem", "key": "{id}.key"}
    async with web_cluster(tmp_path, tls={key: str(certs / name) for key, name in files.items()}) as cluster:
        await cluster.agreed()
        name = "electorate_peer_certificate_expiry_timestamp_seconds"
        ends = [f'{name}{{"peer": "{peer}"}}' for peer in "abc"]
        samples = await scraped(cluster, "a", lambda samples: all(end in samples for end in ends))
        assert all(19 < (samples[end] - time.time()) / 86400 <= 20 for end in ends)


@in_loop
async def test_refusals_by_reason_have_no_text_of_strangers(tmp_path: Path) -> None:
    async with web_cluster(tmp_path, absent="bc") as cluster:
        said = Said((1, 1))
        greetings = {
            "protocol": Greeting((VERSIONS.newest + 1, VERSIONS.newest + 1), "demo", "b", "a", said),
            "cluster": Greeting(VERSIONS, "other", "b", "a", said),
            "wrong_address": Greeting(VERSIONS, "demo", "b", "c", said),
            "unknown_node": Greeting(VERSIONS, "demo", 'x"} 1\n', "a", said),
        }
        for greeting in greetings.values():
            async with stranger(cluster.ports["a"]) as caller:
                await caller.greet(greeting)
        async with stranger(cluster.ports["a"]) as caller:
            caller.say(b"\xff\xff\xff\xff" * 10)
            await caller.closed()
        samples = await scrape(cluster, "a")
        for reason in (*greetings, "junk"):
            assert samples[f'electorate_refusals_total{{"reason": "{reason}"}}'] == 1
        assert samples['electorate_refusals_total{"reason": "lost_store"}'] == 0


@in_loop
async def test_a_thousand_elections_make_a_hundred_series(tmp_path: Path) -> None:
    names = [f"e{number:04}" for number in range(1000)]
    async with web_cluster(tmp_path, "a", elections=names) as cluster:
        host = cluster.hosts["a"]
        await until(lambda: all(map(host.is_leader, names)))
        for query, shown in (("", 100), ("?series=0", 0), ("?series=1000", 1000)):
            samples = await scrape(cluster, "a", query)
            assert sum(name.startswith("electorate_is_leader") for name in samples) == shown
            assert samples["electorate_elections_led"] == 1000


@in_loop
async def test_a_long_scrape_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A scrape that would last for a minute is under way when the node stops."""
    monkeypatch.setattr(pace, "PIECE", 0.0)
    monkeypatch.setattr(pace, "ITEMS", 1)
    begun = threading.Event()

    def due(self: pace.Pace) -> float:
        begun.set()
        return 60.0

    names = [f"e{number:03}" for number in range(10)]
    async with web_cluster(tmp_path, "a", elections=names) as cluster:
        await until(lambda: all(map(cluster.hosts["a"].is_leader, names)))
        with monkeypatch.context() as slow:
            slow.setattr(pace.Pace, "due", due)
            slow.setattr(pace.Unhurried, "select", selectors.DefaultSelector.select)
            scrape = asyncio.create_task(cluster.get("a", "/metrics"))
            await until(begun.is_set)
            await cluster.served.pop("a").aclose()
            assert "HTTP has not ended" not in caplog.text
            await asyncio.wait([scrape])
            scrape.exception()


@in_loop
async def test_openmetrics_if_it_is_asked_for(tmp_path: Path) -> None:
    async with web_cluster(tmp_path, "a") as cluster:
        await cluster.agreed()
        accept = {"accept": "application/openmetrics-text; version=1.0.0"}
        answer = await cluster.get("a", "/metrics", headers=accept)
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        families = {family.name: family for family in parse_openmetrics(answer.text)}  # type: ignore[no-untyped-call]
        assert families["electorate_elections_won"].type == "counter"
        assert families["electorate_failover_duration_seconds"].type == "histogram"


def test_histogram() -> None:
    histogram = Histogram()
    for seconds in (0.0, 0.001, 0.0011, 10.0, 10.1):
        histogram.add(seconds)
    assert sum(histogram.counts) == 5
    assert histogram.counts[0] == 2, "a bound belongs to its own bucket"
    assert (histogram.counts[1], histogram.counts[-2], histogram.counts[-1]) == (1, 1, 1)
    assert histogram.total == pytest.approx(20.1021)
    assert len(histogram.counts) == len(BOUNDS) + 1


C, F, L = Role.CANDIDATE, Role.FOLLOWER, Role.LEADER


@pytest.mark.parametrize(
    ("story", "elections", "elected", "failed_over"),
    [
        ([(0, F, None), (1, F, "b")], {}, [], []),
        ([(0, C, None), (1, L, "a")], {"started": 1, "won": 1}, [1], []),
        ([(0, C, None), (2, C, None), (3, F, "b")], {"started": 1, "lost": 1}, [3], []),
        ([(0, F, "b"), (1, F, None), (2, F, None), (4, F, "c")], {}, [], [3]),
        ([(0, F, "b"), (1, F, None), (2, C, None), (4, L, "a")], {"started": 1, "won": 1}, [2], [3]),
        ([(0, F, "b"), (1, F, "c")], {}, [], []),
        (
            [(0, C, None), (1, F, None), (2, C, None), (5, L, "a")],
            {"started": 2, "won": 1, "lost": 1},
            [5],
            [],
        ),
        ([(0, L, "a"), (1, L, "a"), (2, F, None), (4, F, "b")], {"won": 1}, [], [2]),
    ],
)
def test_what_views_amount_to(
    story: list[tuple[float, Role, str | None]],
    elections: dict[str, int],
    elected: list[float],
    failed_over: list[float],
) -> None:
    figures = Figures()
    for at, role, leader in story:
        figures.changed(View(E, role, leader, 1), at)
    assert figures.elections == elections
    for histogram, times in ((figures.election_time, elected), (figures.failover_time, failed_over)):
        assert (sum(histogram.counts), histogram.total) == (len(times), sum(times))
