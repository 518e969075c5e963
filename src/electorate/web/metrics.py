"""What this node measures, for Prometheus: what the host has counted, and what it shows when it is asked."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate, islice
from typing import NamedTuple, get_args

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from electorate.core.model import Role
from electorate.runtime.figures import BOUNDS, Histogram, Refusal
from electorate.runtime.host import Host
from electorate.version import __version__
from electorate.web.pace import at_leisure
from electorate.web.state import can_elect

SERIES = 100
"""So many elections have series of their own, unless more are asked for."""


class Readings(Collector):
    """The metrics of one host, read while it goes on. Of the elections, the first `series` are shown one by
    one."""

    def __init__(self, host: Host, series: int, closing: threading.Event, certificate_end: float) -> None:
        self.host = host
        self.certificate_end = certificate_end
        self.series = series
        self.closing = closing

    def collect(self) -> Iterator[Metric]:
        """Long families are written at leisure, too."""
        for family in self.families():
            family.samples = at_leisure(family.samples, self.closing)  # type: ignore[assignment]
            yield family

    def families(self) -> Iterator[Metric]:
        config = self.host.config
        build = {"version": __version__, "algorithm": config.algorithm, "cluster": config.cluster}
        yield InfoMetricFamily("electorate_build", "What runs here.", build)
        yield from self.of_each_election()
        yield from self.of_all_elections()
        yield from self.of_peers()
        yield from self.of_refusals()
        yield GaugeMetricFamily(
            "electorate_http_certificate_expiry_timestamp_seconds",
            "When the certificate that HTTPS shows ends, since 1970; 0 without HTTPS.",
            self.certificate_end,
        )

    def of_each_election(self) -> Iterator[Metric]:
        host, label = self.host, ["election"]
        leads = GaugeMetricFamily("electorate_is_leader", "1 while this node provably leads.", labels=label)
        known = GaugeMetricFamily("electorate_has_leader", "1 while a leader is known.", labels=label)
        term = GaugeMetricFamily("electorate_term", "The newest term that this node knows.", labels=label)
        left = GaugeMetricFamily(
            "electorate_lease_left_seconds", "For how long this node certainly leads.", labels=label
        )
        since = GaugeMetricFamily(
            "electorate_leader_since_timestamp_seconds",
            "When this node learnt of the present leader, since 1970; 0 without one.",
            labels=label,
        )
        changes = CounterMetricFamily(
            "electorate_leader_changes",
            "Leaderships that this node has seen begin after the first.",
            labels=label,
        )
        role = GaugeMetricFamily(
            "electorate_role", "1 for the role that this node has.", labels=["election", "role"]
        )
        shown = islice(tuple(host.node.elections.items()), self.series)
        for name, election in at_leisure(shown, self.closing):
            view = election.view
            leads.add_metric([name], host.is_leader(name))
            known.add_metric([name], view.leader is not None)
            term.add_metric([name], view.term)
            left.add_metric([name], host.lease_left(name))
            reign = host.figures.reigns.get(name)
            since.add_metric([name], reign.since if reign and view.leader else 0)
            changes.add_metric([name], reign.changes if reign else 0)
            for each in Role:
                role.add_metric([name, each], view.role is each)
        yield from (leads, known, term, left, since, changes, role)

    def of_all_elections(self) -> Iterator[Metric]:
        host, figures = self.host, self.host.figures
        elections = tuple(host.node.elections.values())
        views = [election.view for election in at_leisure(elections, self.closing)]
        roles = Counter(str(view.role) for view in views)
        yield by_label("electorate_elections", "Elections by the role of this node.", "role", roles, Role)
        yield GaugeMetricFamily(
            "electorate_elections_led",
            "Elections that this node provably leads.",
            sum(map(host.is_leader, tuple(host.node.tenures))),
        )
        yield GaugeMetricFamily(
            "electorate_elections_leaderless",
            "Elections without a known leader.",
            sum(view.leader is None for view in views),
        )
        outcomes = {
            "started": "How often this node became a candidate.",
            "won": "How often this node became the leader.",
            "lost": "How often this node was a candidate in vain.",
        }
        for outcome, meaning in outcomes.items():
            yield CounterMetricFamily(
                f"electorate_elections_{outcome}",
                meaning,
                figures.elections[outcome],  # type: ignore[index]
            )
        yield histogram(
            "electorate_election_duration_seconds",
            "From becoming a candidate until a leader is known.",
            figures.election_time,
        )
        yield histogram(
            "electorate_failover_duration_seconds",
            "From the loss of a known leader until the next is known.",
            figures.failover_time,
        )
        yield histogram(
            "electorate_store_commit_duration_seconds",
            "How long promises took to become durable.",
            figures.commit_time,
        )
        yield GaugeMetricFamily(
            "electorate_store_failing_since_timestamp_seconds",
            "Since when the store takes no write, since 1970; 0 while it does.",
            figures.store_fails_since,
        )

    def of_peers(self) -> Iterator[Metric]:
        host, figures = self.host, self.host.figures
        connected = {peer: link.connected for peer, link in host.links.items()}
        yield by_label("electorate_peer_connected", "1 while this node can write to it.", "peer", connected)
        yield by_label(
            "electorate_peer_version",
            "The version of the protocol that is spoken with it; 0 while it is not connected.",
            "peer",
            host.spoken(),
            host.links,
        )
        yield GaugeMetricFamily(
            "electorate_quorum_connected",
            "1 while this node and those it is connected to are a quorum.",
            can_elect(host),
        )
        awaited = host.awaited or ()
        yield by_label(
            "electorate_peer_awaited",
            "1 while this node rejoins and waits for what it knows.",
            "peer",
            {peer: peer in awaited for peer in host.links},
        )
        yield by_label(
            "electorate_peer_configured_otherwise",
            "1 if its cluster file differs, where safety does not rest on it.",
            "peer",
            {peer: bool(host.differs.get(peer)) for peer in host.links},
        )
        round_trips = dict(figures.round_trip) if host.node.tenures else {}
        yield by_label(
            "electorate_peer_round_trip_seconds",
            "From the newest answered beat to its answer, while this node leads.",
            "peer",
            round_trips,
        )
        yield by_label(
            "electorate_peer_certificate_expiry_timestamp_seconds",
            "When the certificate that this node, or a peer, showed last ends, since 1970.",
            "peer",
            host.expiry(),
        )
        sent = CounterMetricFamily("electorate_beats_sent", "Beats sent.", labels=["peer"])
        missed = CounterMetricFamily(
            "electorate_beats_missed", "Beats without an answer when the next one left.", labels=["peer"]
        )
        for peer in host.links:
            sent.add_metric([peer], figures.beats[peer])
            missed.add_metric([peer], figures.missed[peer])
        yield from (sent, missed)

    def of_refusals(self) -> Iterator[Metric]:
        refusals = CounterMetricFamily(
            "electorate_refusals",
            "Connections, and requests of strangers, refused, by reason.",
            labels=["reason"],
        )
        for reason in get_args(Refusal):
            refusals.add_metric([reason], self.host.figures.refusals[reason])
        ignored = CounterMetricFamily(
            "electorate_messages_ignored",
            "Messages of members that made no sense, by reason.",
            labels=["reason"],
        )
        for why, count in dict(self.host.node.ignored).items():
            ignored.add_metric([why], count)
        beyond = CounterMetricFamily(
            "electorate_beyond_version",
            "Messages, and fields of messages, of a later version of the protocol, which were ignored.",
            labels=["peer", "part"],
        )
        for (whom, part), count in self.host.figures.beyond.copy().items():
            beyond.add_metric([whom, part], count)
        yield from (refusals, ignored, beyond)


def by_label(
    name: str, meaning: str, label: str, values: Mapping[str, float], labels: Iterable[str] | None = None
) -> GaugeMetricFamily:
    """A gauge with one label; 0 for what has no value."""
    gauge = GaugeMetricFamily(name, meaning, labels=[label])
    for each in values if labels is None else labels:
        gauge.add_metric([each], values.get(each, 0))
    return gauge


def histogram(name: str, meaning: str, measured: Histogram) -> HistogramMetricFamily:
    bounds = [*map(str, BOUNDS), "+Inf"]
    buckets = list(zip(bounds, accumulate(measured.counts), strict=True))
    return HistogramMetricFamily(name, meaning, buckets, measured.total)


class Exposition(NamedTuple):
    text: bytes
    kind: str


def exposition(
    host: Host, series: int, accept: str, closing: threading.Event, certificate_end: float = 0
) -> Exposition:
    """All metrics of this host and of its process, as text, and the type of that. It may take long, so it is
    made in a thread, and given up when it is closing."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Readings(host, series, closing, certificate_end))
    ProcessCollector(registry=registry)
    encode, kind = choose_encoder(accept)
    try:
        return Exposition(encode(registry), kind)
    except InterruptedError:
        return Exposition(b"", kind)
