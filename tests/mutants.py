"""`make mutants`: weaken one rule at a time, and see who notices.

A mutant is one change of the source, named in `mutants.toml`. Each is made in a copy, and then meets every
detector: the tests of its room and, if it is of the core, the model checker and storms in the simulator. What killed
it, and after how long, goes into `docs/mutants.md`. A rule that nobody misses is not tested, or not needed.

A verdict holds for the very source, tests and mutant that it was found with; whatever has none is judged.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import count
from pathlib import Path

import msgspec

import electorate
from electorate.check.question import shipped
from electorate.core.model import Settings
from electorate.errors import UserError
from electorate.sim.faults import plan_for
from electorate.sim.run import simulate, storm
from electorate.sim.trace import record

ROOT = Path(__file__).parent.parent
LIST = Path(__file__).with_suffix(".toml")
VERDICTS = ROOT / ".venv" / "mutants"
TABLE = ROOT / "docs" / "mutants.md"
LEADERSHIP = ("leadership", "leadership_threads", "signals")
TESTS: Mapping[str, tuple[str, ...]] = {
    "core": (
        *("identity", "barrier", "rejoin", "answers", "wishes", "work", "mutants_killed", "core"),
        *("forget", "forget_attacks"),
        *("conformance", "counts", "scenarios", "guards", "fuzz_core"),
    ),
    "core/configuration.py": ("runtime_configuration",),
    "runtime": (
        *("runtime_identity", "runtime_proof", "runtime_rejoin", "runtime_configuration", "runtime_store"),
        *("runtime_forget", "runtime_attested", "runtime_directory"),
        *("runtime_clock", "runtime_wire", "runtime_host", "runtime_names", "runtime_contact"),
        "fuzz_store",
    ),
    "runtime/tls.py": ("security",),
    "runtime/certificates.py": ("security", "runtime_attested"),
    "runtime/secret.py": ("security",),
    "runtime/private.py": ("security",),
    "runtime/authority.py": ("security",),
    "runtime/handover.py": ("handover", "web_commands"),
    "engines/embedded.py": ("handover",),
    "runtime/door.py": ("runtime_faults",),
    "runtime/notify.py": ("client",),
    "runtime/control.py": ("control", "client"),
    "errors": ("runtime_contact",),
    "leadership": LEADERSHIP,
    "election": LEADERSHIP,
    "election.py": (*LEADERSHIP, "ends"),
    "sync": LEADERSHIP,
    "signals": LEADERSHIP,
    "work": (*LEADERSHIP, "counted_work", "privileges"),
    "runtime/config.py": ("runtime_config",),
    "runtime/guardian.py": ("guardian", "ward", "privileges"),
    "runtime/ward.py": ("guardian", "ward", "signals", "privileges"),
    "runtime/tree.py": ("ward", "privileges"),
    "web/hosts.py": ("web_hosts",),
    "web/tls.py": ("web_https",),
    "web": ("web_fitness", "web_limits", "web_commands", "web_events", "web_metrics", "web_questions"),
    "cli": ("guardian",),
    "cli/client.py": ("runtime_names",),
    "cli/examine.py": ("cli_config",),
    "cli/node.py": ("runtime_names",),
    "cli/process.py": ("cluster_up",),
    "cli/run.py": ("guardian", "privileges"),
}
"""For each room, or file, of `src/electorate`: the tests that guard its rules."""
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
STORMS = float(os.environ.get("STORMS", "10"))
"""Seconds of storms for one mutant."""
STATES = 6_000
"""How many states of each question the model checker sees."""
ALIKE = range(4)
"""The seeds of the storms in which one that is called equivalent must do what the original does."""
PATIENCE = 60.0
"""Seconds beyond those of the storms that a detector may take: a mutant may make it run in circles."""
PROCESSES = 2


class Mutant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One change: in this file of `src/electorate`, `old` becomes `new`. `rule` is what that weakens."""

    name: str
    file: str
    rule: str
    old: str
    new: str
    algorithms: tuple[str, ...] = ALGORITHMS
    """Those whose storms it should meet."""
    equivalent: str = ""
    """Why nothing can tell it from the original; a search must not either (`alike`)."""
    harmless: str = ""
    """What it costs, where that is time at most."""

    @property
    def room(self) -> str:
        """Whose tests it meets."""
        return self.file if self.file in TESTS else Path(self.file).parts[0].removesuffix(".py")

    @property
    def excuse(self) -> str:
        return self.equivalent or self.harmless

    def apply(self, package: Path) -> None:
        """Change the copy. Raises `UserError` if the text is not there exactly once."""
        path = package / self.file
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
    digest: str
    """Of what was judged: the source, the tests, the mutant, and how long the detectors had."""
    tests: Death
    checker: Death
    storms: Death
    alike: bool = False
    """In every state and storm that was compared, it did what the original does."""

    @property
    def killed(self) -> bool:
        return any(death.by for death in (self.tests, self.checker, self.storms))


NOT_RUN = Death("", 0.0)


class _List(msgspec.Struct, frozen=True):
    mutant: tuple[Mutant, ...]


def mutants() -> tuple[Mutant, ...]:
    return msgspec.toml.decode(LIST.read_bytes(), type=_List).mutant


@cache
def surroundings(root: Path = ROOT) -> str:
    """A digest of all that decides how a mutant fares, itself apart."""
    digest = hashlib.blake2b(f"{STORMS} {STATES} {ALIKE}".encode(), digest_size=12)
    for path in sorted(files(root)):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def files(root: Path) -> Iterator[Path]:
    for part in ("src", "tests"):
        for path in (root / part).rglob("*"):
            if path.is_file() and path.name != LIST.name and "__pycache__" not in path.parts:
                yield path


def digest(mutant: Mutant) -> str:
    return hashlib.blake2b(surroundings().encode() + msgspec.json.encode(mutant), digest_size=12).hexdigest()


# --- the detectors --------------------------------------------------------------------------------


def judge(mutant: Mutant) -> Verdict:
    """Let the mutant meet every detector."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        place = copy(Path(folder))
        mutant.apply(place / "src" / "electorate")
        tests = tested(place, mutant.room)
        if mutant.room != "core":
            return Verdict(digest(mutant), tests, NOT_RUN, NOT_RUN)
        return Verdict(
            digest(mutant),
            tests,
            asked(place, "check", mutant.algorithms),
            asked(place, "storms", mutant.algorithms),
            bool(mutant.equivalent)
            and asked(place, "alike", mutant.algorithms).by == original(mutant.algorithms),
        )


def copy(place: Path) -> Path:
    """All that the detectors need, in this folder: what a mutant leaves behind does not stay."""
    for part in ("src", "tests"):
        shutil.copytree(ROOT / part, place / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", place)
    return place


def check_original(rooms: set[str]) -> None:
    """What fails without a mutant proves nothing with one. Raises `UserError`."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        place = copy(Path(folder))
        for room in rooms:
            if by := tested(place, room).by:
                raise UserError(f"{by} fails without any mutant: mend that first")


def tested(place: Path, room: str) -> Death:
    files = [f"tests/test_{name}.py" for name in TESTS[room]]
    started = time.monotonic()
    ran = run(
        place,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-n",
        "0",
        "--tb",
        "no",
        "--hypothesis-profile",
        "unshrunk",
        "-k",
        SOUND,
        *files,
    )
    failed = [line for line in ran.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    by = failed[0].split(" - ")[0].split("::", 1)[-1] if failed else "" if ran.returncode == 0 else "no start"
    return Death(by, time.monotonic() - started)


def asked(place: Path, detector: str, algorithms: Sequence[str]) -> Death:
    """Let the model checker, or storms, at it, in a process of their own."""
    started = time.monotonic()
    try:
        ran = run(place, "-m", "tests.mutants", detector, *algorithms, patience=STORMS + PATIENCE)
    except subprocess.TimeoutExpired:
        return Death("does not end", time.monotonic() - started)
    by = ran.stderr.strip().splitlines()[-1] if ran.returncode else ran.stdout.strip()
    return Death(by, time.monotonic() - started)


def run(place: Path, *arguments: str, patience: float | None = None) -> subprocess.CompletedProcess[str]:
    """Python, with the mutant in place of the original. Raises TimeoutExpired."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(place / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
    }
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


def storms(algorithms: Sequence[str]) -> str:
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


@cache
def original(algorithms: tuple[str, ...]) -> str:
    """What `alike` says of the source as it is."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        return asked(copy(Path(folder)), "alike", algorithms).by


def alike(algorithms: Sequence[str]) -> str:
    """A digest of all that happens in some storms, and of how many states the model checker finds."""
    digest = hashlib.blake2b(digest_size=12)
    for algorithm in algorithms:
        for seed in ALIKE:
            plan = plan_for("hostile", seed, 3, Settings(algorithm=algorithm))  # type: ignore[arg-type]
            world = storm(plan, seed, "hostile", 10.0, record=True)
            digest.update(repr([record(entry) for entry in world.entries or ()]).encode())
    for question in shipped():
        if question.algorithm in algorithms and question.nodes == 2:
            answer = msgspec.structs.replace(question, limit=STATES, dead_ends=False).answer()
            digest.update(f"{answer.verdict.states} {answer.verdict.transitions}".encode())
    return digest.hexdigest()


# --- the table ------------------------------------------------------------------------------------


def table(every: Sequence[Mutant], verdicts: Mapping[str, Verdict]) -> str:
    """The page: what killed each mutant that was judged, and why the others live."""
    judged = [(mutant, verdicts[mutant.name]) for mutant in every if mutant.name in verdicts]
    alive = [(mutant, verdict) for mutant, verdict in judged if not verdict.killed]
    explained = [mutant for mutant, verdict in alive if not complaint(mutant, verdict)]
    missing = len(every) - len(judged)
    lines = [
        "# Mutants",
        "",
        "Would anybody notice? `make mutants` weakens one rule at a time, in a copy, lets the tests and, where the",
        "rule is one of the core, the model checker and the simulator at it, and writes this page. The list is",
        "`tests/mutants.toml`. `make mutants ONLY=name` judges one. A verdict holds for the very source, tests and",
        "mutant that it was found with; whatever has none is judged. Times are seconds on two busy cores; storms got",
        f"{STORMS:.0f} s for each mutant, and the checker {STATES:,} states for each question about two nodes.",
        "",
        f"{len(judged)} mutants, {len(judged) - len(alive)} killed; {len(alive)} live, "
        f"{len(explained)} of them for the reason given below."
        + (f" {missing} are not judged yet." if missing else ""),
        "",
        "| mutant | what it weakens | killed by the tests | s | by the checker alone | s | by storms alone | s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for mutant, verdict in judged:
        deaths = (verdict.tests, verdict.checker, verdict.storms)
        cells = " | ".join(f"{cell(death)} | {death.seconds:.0f}" for death in deaths)
        lines.append(f"| {mutant.name} | {mutant.rule} | {cells} |")
    lines += ["", "## Those that live", ""]
    lines += [
        f"- **{mutant.name}**: {complaint(*pair) or reason(mutant)}" for pair in alive for mutant in pair[:1]
    ]
    if wrong := [(m, v) for m, v in judged if v.killed and complaint(m, v)]:
        lines += ["", "## Those that should live", ""]
        lines += [f"- **{mutant.name}**: {complaint(mutant, verdict)}" for mutant, verdict in wrong]
    return "\n".join(lines) + "\n"


def reason(mutant: Mutant) -> str:
    if mutant.equivalent:
        return f"does the same in {len(ALIKE)} storms for each algorithm, and in all that the checker sees: {mutant.equivalent}"
    return mutant.harmless


def complaint(mutant: Mutant, verdict: Verdict) -> str:
    """What is wrong with this mutant, or its verdict."""
    if verdict.killed:
        return f"it is noticed, so it is not as is said: {mutant.excuse}" if mutant.excuse else ""
    if mutant.equivalent and not verdict.alike:
        return f"it does what the original does not, so this is no reason: {mutant.equivalent}"
    return "" if mutant.excuse else "nobody has noticed: a hole."


def cell(death: Death) -> str:
    return death.by.replace("|", "\\|") or ("-" if death.seconds else "not run")


def known() -> dict[str, Verdict]:
    """The verdict of every mutant that was judged as it is now."""
    found = {}
    for mutant in mutants():
        file = VERDICTS / f"{mutant.name}.json"
        if file.exists():
            verdict = msgspec.json.decode(file.read_bytes(), type=Verdict)
            if verdict.digest == digest(mutant):
                found[mutant.name] = verdict
    return found


def judge_and_keep(mutant: Mutant) -> None:
    verdict = judge(mutant)
    (VERDICTS / f"{mutant.name}.json").write_bytes(msgspec.json.encode(verdict))
    print(
        f"{mutant.name:28} {verdict.tests.by or 'tests: -':60} {verdict.checker.by or 'checker: -'} "
        f"| {verdict.storms.by or 'storms: -'} {complaint(mutant, verdict)}",
        flush=True,
    )


def main(only: Sequence[str]) -> int:
    """Judge the mutants of these names, or all that have no verdict. Returns 1 if one of them is a hole, or not
    what is said of it."""
    every = mutants()
    if missing := set(only) - {mutant.name for mutant in every}:
        raise UserError(f"there is no mutant '{missing.pop()}'; {LIST.name} names them all")
    VERDICTS.mkdir(parents=True, exist_ok=True)
    done = known()
    chosen = [mutant for mutant in every if mutant.name in only or not (only or mutant.name in done)]
    check_original({mutant.room for mutant in chosen})
    with ThreadPoolExecutor(PROCESSES) as pool:
        list(pool.map(judge_and_keep, chosen))
    done = known()
    TABLE.write_text(table(every, done))
    return int(any(complaint(mutant, done[mutant.name]) for mutant in every if mutant.name in done))


if __name__ == "__main__":
    try:
        detectors = {"check": check, "storms": storms, "alike": alike}
        if detect := detectors.get(sys.argv[1] if len(sys.argv) > 1 else ""):
            assert Path(electorate.__file__).is_relative_to(Path.cwd() / "src"), "this is not the mutant"
            print(detect(sys.argv[2:]))
        else:
            sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
