"""One OpenTelemetry span for each election, from the loss of the leader (or the start) until one is known.

Where `opentelemetry-api` is not installed nothing is done, and without an SDK it costs next to nothing.
"""

from __future__ import annotations

from typing import Any

from electorate.runtime.host import Host


def trace_elections(host: Host) -> None:
    """From now on, as long as the host runs."""
    try:
        from opentelemetry import trace
    except ImportError:
        return
    tracer = trace.get_tracer("electorate")
    open_spans: dict[str, Any] = {}

    def follow(kind: str, what: dict[str, Any]) -> None:
        name = what["election"]
        if kind == "forgotten":
            if span := open_spans.pop(name, None):
                span.set_attribute("electorate.outcome", "forgotten")
                span.end()
        elif what["leader"] is None and name not in open_spans:
            attributes = {"electorate.election": name, "electorate.node": host.id}
            open_spans[name] = tracer.start_span("election", attributes=attributes)
        elif what["leader"] is not None and (span := open_spans.pop(name, None)):
            span.set_attribute("electorate.leader", what["leader"])
            span.set_attribute("electorate.term", what["term"])
            span.set_attribute("electorate.outcome", "won" if what["leader"] == host.id else "followed")
            span.end()

    host.observe(follow, "view", "forgotten")
