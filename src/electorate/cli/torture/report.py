"""The report: one HTML file with nothing outside it, to be read by day and by night."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from statistics import median

from electorate.cli.torture.referee import History, Violation, availability, failovers
from electorate.cli.torture.schedule import Schedule

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --faint: #d8dee4; --band: #f3e3b3;
  --lead: #2f6fde; --down: #b9c0c8; --bad: #d1242f }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --paper: #0d1117; --faint: #30363d;
  --band: #4a3d12; --lead: #58a6ff; --down: #484f58; --bad: #ff6a69 } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 1100px; padding: 0 1rem }
svg { display: block; overflow: visible } text { fill: var(--ink); font-size: 11px }
.scroll { overflow-x: auto } .band { fill: var(--band) } .lead { fill: var(--lead) }
.down { fill: var(--down) }
.bad { fill: var(--bad); color: var(--bad) }
.line { stroke: var(--faint) } code { overflow-wrap: anywhere }
table { border-collapse: collapse } td, th { padding: .15rem .9rem .15rem 0; text-align: right }
td:first-child, th:first-child { text-align: left } th { font-weight: 600 }
"""
ROW, LEFT, TOP, SCALE = 26, 40, 46, 16
"""Pixels: the height of a node, the names at the left, the faults on top, and a second."""
BOUNDS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
"""The seconds at which a column of a histogram begins."""


def report(schedule: Schedule, history: History, violations: Sequence[Violation], replay: str) -> str:
    verdict = f"{len(violations)} violations" if violations else "No violation"
    title = f"{schedule.algorithm}, {schedule.nodes} nodes, seed {schedule.seed}: {verdict.lower()}"
    return "\n".join(
        [
            '<!doctype html><html lang="en"><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>{escape(title)}</title><style>{STYLE}</style>",
            f"<h1{' class=bad' if violations else ''}>{verdict}</h1>",
            f"<p>{escape(title)}. To see it again: <code>{escape(replay)}</code></p>",
            numbers(schedule, history),
            *(f"<p class=bad><b>{v.rule}</b> {escape(v.what)}</p>" for v in violations),
            "<p>Yellow: faults. Blue: who leads, with the term. Grey: no process, or a paused one. "
            "Red: violations.</p>",
            *(timeline(schedule, history, violations, election) for election in schedule.elections),
            "<h2>How long nobody led, by fault</h2>",
            histograms(failovers(history, schedule.elections)),
            "<details><summary>The schedule</summary>",
            f"<pre>{escape(chr(10).join(schedule.steps))}</pre></details>",
        ]
    )


def numbers(schedule: Schedule, history: History) -> str:
    facts = {
        "seconds": f"{history.end - history.start:.1f}",
        "faults": len(history.faults),
        "leaderships": len(history.claims),
        "writes accepted": len(history.writes),
        "writes refused by the fence": len(history.refused),
        "commands that overlapped": len(history.overlaps),
        **{f"led: {name}": f"{100 * availability(history, name):.1f} %" for name in schedule.elections},
    }
    if history.skipped:
        facts["not possible on this machine"] = escape(", ".join(sorted(history.skipped)))
    return "<table>" + "".join(f"<tr><td>{k}<td>{v}" for k, v in facts.items()) + "</table>"


def timeline(schedule: Schedule, history: History, violations: Sequence[Violation], election: str) -> str:
    lasts = history.end - history.start
    height = TOP + ROW * schedule.nodes
    rows = {id: TOP + i * ROW for i, id in enumerate(schedule.ids)}

    def x(at: float) -> float:
        return LEFT + SCALE * max(0.0, min(lasts, at - history.start))

    def bar(kind: str, start: float, end: float, y: float, high: float, title: str) -> str:
        box = f'x="{x(start):.1f}" y="{y:.0f}" width="{max(1, x(end) - x(start)):.1f}" height="{high:.0f}"'
        return f'<rect class="{kind}" {box}><title>{escape(title)}</title></rect>'

    def parts() -> Iterator[str]:
        for i, fault in enumerate(history.faults):
            yield bar("band", fault.start, fault.end, TOP, ROW * schedule.nodes, fault.name)
            yield f'<text x="{x(fault.start):.1f}" y="{TOP - 6 - 13 * (i % 3)}">{escape(fault.name)}</text>'
        for id, y in rows.items():
            yield f'<text x="4" y="{y + 17}">{id}</text>'
            yield f'<path class="line" d="M{LEFT} {y + ROW}H{x(history.end):.0f}"/>'
        for id, start, end in history.down:
            yield bar("down", start, end, rows[id] + 10, 6, f"{id} is down or paused")
        for claim in history.claims:
            if claim.election == election and claim.end > history.start:
                yield bar("lead", claim.start, claim.end, rows[claim.node] + 5, 16, str(claim))
                yield f'<text x="{x(claim.start):.1f}" y="{rows[claim.node] + 4}">{claim.term}</text>'
        for violation in violations:
            yield bar("bad", violation.time, violation.time, TOP, ROW * schedule.nodes, violation.what)
        for second in range(0, int(lasts) + 1, 5):
            yield f'<text x="{LEFT + SCALE * second}" y="{height + 15}">{second} s</text>'

    size = f'width="{LEFT + SCALE * lasts + 60:.0f}" height="{height + 24}"'
    return f"<h2>{escape(election)}</h2><div class=scroll><svg {size}>{''.join(parts())}</svg></div>"


def histograms(outages: dict[str, list[float]]) -> str:
    ends = [*BOUNDS[1:], float("inf")]
    heads = "".join(f"<th>{low:g} s" for low in BOUNDS)
    lines = [f"<table><tr><th>fault<th>outages<th>median<th>longest{heads}"]
    for fault, seconds in sorted(outages.items()):
        middle, longest = (f"{median(seconds):.2f}", f"{seconds[-1]:.2f}") if seconds else ("", "")
        lines.append(f"<tr><td>{escape(fault)}<td>{len(seconds)}<td>{middle}<td>{longest}")
        for low, high in zip(BOUNDS, ends, strict=True):
            count = sum(low <= each < high for each in seconds)
            tall = round(30 * count / len(seconds)) if seconds else 0
            column = f'<rect class="lead" y="{30 - tall}" width="30" height="{tall}"/>' if count else ""
            lines.append(f'<td><svg width="30" height="30">{column}</svg>{count or ""}')
    return "\n".join([*lines, "</table><p>A column holds what lasted from its time to that of the next.</p>"])
