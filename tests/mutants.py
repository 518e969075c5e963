"""`make mutants`: weaken one rule of the core at a time, and see who notices.

A mutant is one change of the source, named in `mutants.toml`. Each is made in a copy, and then meets every
detector: the tests, the model checker, and storms in the simulator. What killed it, and after how long, goes into
`docs/mutants.md`. A rule that nobody misses is not tested, or not needed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import msgspec

import electorate
from electorate.check.question import shipped
from electorate.core.model import Settings
from electorate.errors import UserError
from electorate.sim.run import simulate

ROOT = Path(__file__).parent.parent
LIST = Path(__file__).with_suffix(".toml")
VERDICTS = ROOT / ".venv" / "mutants"
TABLE = ROOT / "docs" / "mutants.md"
TESTS = ("conformance", "core", "mutants_killed", "work", "scenarios", "counts", "guards")
SOUND = " and ".join(
    f"not {name}"
    for name in (
        "without_the_guard",
        "with_every_guard",
        "the_page_is",
        "has_a_source",
    )
)
"""Left out: the tests that take another guard away (one flaw at a time), those that are storms, and those of a
page."""
ALGORITHMS = ("raft", "bully", "ring", "zab")
STORMS = float(os.environ.get("STORMS", "40"))
"""Seconds of storms for one mutant."""
STATES = 6_000
"""How many states of each question the model checker sees."""
PATIENCE = 60.0
"""Seconds beyond those of the storms that a detector may take: a mutant may make it run in circles."""
PROCESSES = 2


class Mutant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One change: in this file of the core, `old` becomes `new`. `rule` is what that weakens."""

    name: str
    file: str
    rule: str
    old: str
    new: str
    algorithms: tuple[str, ...] = ALGORITHMS
    """Those whose storms it should meet."""
    equivalent: str = ""
    """Why nothing can tell it from the original, or why it costs time at most."""

    def apply(self, core: Path) -> None:
        """Change the copy. Raises `UserError` if the text is not there exactly once."""
        path = core / self.file
        source = path.read_text()
        if source.count(self.old) != 1:
            raise UserError(
                f"mutant '{self.name}': its text occurs {source.count(self.old)} times in {self.file}, "
                f"not once: bring {LIST.name} up to date"
            )
        path.write_text(source.replace(self.old, self.new))


class Death(msgspec.Struct, frozen=True):
    """By what a mutant was killed ("" if it lives), and after how many seconds."""

    by: str
    seconds: float


class Verdict(msgspec.Struct, frozen=True):
    name: str
    tests: Death
    checker: Death
    storms: Death

    @property
    def killed(self) -> bool:
        return any(death.by for death in (self.tests, self.checker, self.storms))


class _List(msgspec.Struct, frozen=True):
    mutant: tuple[Mutant, ...]


def mutants() -> tuple[Mutant, ...]:
    return msgspec.toml.decode(LIST.read_bytes(), type=_List).mutant


# --- the detectors --------------------------------------------------------------------------------


def judge(mutant: Mutant) -> Verdict:
    """Let the mutant meet every detector."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        place = copy(Path(folder))
        mutant.apply(place / "src" / "electorate" / "core")
        return Verdict(
            mutant.name,
            tested(place),
            asked(place, "check", mutant.algorithms),
            asked(place, "storm", mutant.algorithms),
        )


def copy(place: Path) -> Path:
    """All that the detectors need, in this folder: what a mutant leaves behind does not stay."""
    for part in ("src", "tests"):
        shutil.copytree(ROOT / part, place / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", place)
    return place


def check_original() -> None:
    """What fails without a mutant proves nothing with one. Raises `UserError`."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        if by := tested(copy(Path(folder))).by:
            raise UserError(f"{by} fails without any mutant: mend that first")


def tested(place: Path) -> Death:
    files = [f"tests/test_{name}.py" for name in TESTS if (ROOT / f"tests/test_{name}.py").exists()]
    started = time.monotonic()
    ran = run(place, "-m", "pytest", "-x", "-q", "-n", "0", "--tb", "no", "-k", SOUND, *files)
    failed = [line for line in ran.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    by = failed[0].split(" - ")[0].split("::", 1)[-1] if failed else "" if ran.returncode == 0 else "no start"
    return Death(by, time.monotonic() - started)


def asked(place: Path, detector: str, algorithms: Sequence[str]) -> Death:
    """Let the model checker or the storms at it, in a process of their own."""
    started = time.monotonic()
    try:
        ran = run(place, "-m", "tests.mutants", detector, *algorithms, patience=STORMS + PATIENCE)
    except subprocess.TimeoutExpired:
        return Death("does not end", time.monotonic() - started)
    by = ran.stderr.strip().splitlines()[-1] if ran.returncode else ran.stdout.strip()
    return Death(by, time.monotonic() - started)


def run(place: Path, *arguments: str, patience: float | None = None) -> subprocess.CompletedProcess[str]:
    """Python, with the mutant in place of the original. Raises TimeoutExpired."""
    environment = {**os.environ, "PYTHONPATH": str(place / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=patience,
    )


def check(algorithms: Sequence[str]) -> str:
    """The shipped questions about two nodes, as far as `STATES` each. Returns what was found, or ""."""
    for question in shipped():
        if question.algorithm in algorithms and question.nodes == 2:
            answer = msgspec.structs.replace(question, limit=STATES, dead_ends=False).answer()
            if answer.problem:
                return f"{answer.problem.split(':')[0]}: {question.name}"
    return ""


def storm(algorithms: Sequence[str]) -> str:
    """Hostile runs in turn, until one breaks an invariant or the time is over. Returns which did, or ""."""
    until = time.monotonic() + STORMS
    for seed in count():
        for algorithm in algorithms:
            for nodes in (3, 5):
                if time.monotonic() > until:
                    return ""
                outcome = simulate("hostile", seed, nodes, 20.0, settings=Settings(algorithm=algorithm))  # type: ignore[arg-type]
                if outcome.violations:
                    invariant = outcome.violations[0].split()[0]
                    return f"{invariant}: {algorithm}, {nodes} nodes, seed {seed}"
    return ""


# --- the table ------------------------------------------------------------------------------------


def table(verdicts: Sequence[tuple[Mutant, Verdict]]) -> str:
    alive = [mutant for mutant, verdict in verdicts if not verdict.killed]
    unexplained = [mutant.name for mutant in alive if not mutant.equivalent]
    lines = [
        "# Mutants",
        "",
        "Would anybody notice? `make mutants` weakens one rule of the core at a time, in a copy, lets the",
        "tests, the model checker and the simulator at it, and writes this page. The list is",
        "`tests/mutants.toml`. `make mutants ONLY=name` judges one. Times are seconds on two busy cores; storms",
        f"get {STORMS:.0f} per mutant, and the checker {STATES:,} states for each of its questions about two nodes.",
        "",
        f"{len(verdicts)} mutants, {len(verdicts) - len(alive)} killed; {len(alive)} live, "
        f"{len(alive) - len(unexplained)} of them for the reason given below.",
        "",
        "| mutant | what it weakens | killed by the tests | s | by the checker alone | s | by storms alone | s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for mutant, verdict in verdicts:
        deaths = (verdict.tests, verdict.checker, verdict.storms)
        cells = " | ".join(f"{cell(death)} | {death.seconds:.0f}" for death in deaths)
        lines.append(f"| {mutant.name} | {mutant.rule} | {cells} |")
    lines += ["", "## Those that live", ""]
    lines += [
        f"- **{mutant.name}**: {mutant.equivalent or 'nobody has noticed: a hole.'}" for mutant in alive
    ]
    return "\n".join(lines) + "\n"


def cell(death: Death) -> str:
    return death.by.replace("|", "\\|") or ("-" if death.seconds else "not run")


def known() -> list[tuple[Mutant, Verdict]]:
    """Every mutant that has been judged, with its newest verdict."""
    kept = [(mutant, VERDICTS / f"{mutant.name}.json") for mutant in mutants()]
    return [
        (mutant, msgspec.json.decode(path.read_bytes(), type=Verdict))
        for mutant, path in kept
        if path.exists()
    ]


def judge_and_keep(mutant: Mutant) -> Verdict:
    verdict = judge(mutant)
    (VERDICTS / f"{mutant.name}.json").write_bytes(msgspec.json.encode(verdict))
    print(
        f"{mutant.name:28} {verdict.tests.by or 'tests: -':60} {verdict.checker.by or 'checker: -'} "
        f"| {verdict.storms.by or 'storms: -'}",
        flush=True,
    )
    return verdict


def main(only: Sequence[str]) -> int:
    """Judge the mutants of these names, or all. Returns 1 if one lives and nothing explains it."""
    chosen = [mutant for mutant in mutants() if not only or mutant.name in only]
    if missing := set(only) - {mutant.name for mutant in chosen}:
        raise UserError(f"there is no mutant '{missing.pop()}'; {LIST.name} names them all")
    check_original()
    VERDICTS.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(PROCESSES) as pool:
        verdicts = list(zip(chosen, pool.map(judge_and_keep, chosen), strict=True))
    TABLE.write_text(table(known()))
    return int(any(not verdict.killed and not mutant.equivalent for mutant, verdict in verdicts))


if __name__ == "__main__":
    try:
        if sys.argv[1:2] in (["storm"], ["check"]):
            assert Path(electorate.__file__).is_relative_to(Path.cwd() / "src"), "this is not the mutant"
            detect = storm if sys.argv[1] == "storm" else check
            print(detect(sys.argv[2:]))
        else:
            sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
