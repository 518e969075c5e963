"""`make release`: a wheel, the source, what is in the image (SBOM), and the checksums of these.

Whoever makes them of the same commit with the same locks gets the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from electorate.version import __version__

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "locks" / "image.txt"
PIN = re.compile(r"^([\w.-]+)(?:\[[\w,]+\])?==([^\s;]+)(.*?)(?=^\S|\Z)", re.MULTILINE | re.DOTALL)


def pins(lock: Path) -> dict[str, tuple[str, frozenset[str]]]:
    """What a lock holds: the version of each package, and the SHA-256 of each of its files."""
    return {
        name: (version, frozenset(re.findall(r"--hash=sha256:([0-9a-f]{64})", rest)))
        for name, version, rest in PIN.findall(lock.read_text())
    }


def release(to: Path) -> list[Path]:
    """Write all of it into this directory. Raises `CalledProcessError` if a program fails."""
    to.mkdir(parents=True, exist_ok=True)
    built = [to / f"electorate-{__version__}-py3-none-any.whl", to / f"electorate-{__version__}.tar.gz"]
    run("hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", str(to.absolute()))
    bill = to / f"electorate-{__version__}.cdx.json"
    bill.write_text(json.dumps(bill_of_materials(built[0]), indent=1, sort_keys=True) + "\n")
    sums = to / "SHA256SUMS"
    sums.write_text("".join(f"{digest(path)}  {path.name}\n" for path in (*built, bill)))
    return [*built, bill, sums]


def bill_of_materials(wheel: Path) -> dict[str, Any]:
    """What runs in an image: the wheel, and each package of the lock. CycloneDX, as JSON."""
    options = ("--pyproject", "pyproject.toml", "--output-reproducible", "--of", "JSON", "-o", "-")
    bill: dict[str, Any] = json.loads(run("cyclonedx_py", "requirements", str(LOCK), *options))
    purl = f"pkg:pypi/electorate@{__version__}"
    hashes = [{"alg": "SHA-256", "content": digest(wheel)}]
    bill["metadata"]["component"] |= {"version": __version__, "purl": purl, "hashes": hashes}
    for component in bill["components"]:
        del component["description"]  # the line of the lock
    root = {
        "ref": bill["metadata"]["component"]["bom-ref"],
        "dependsOn": sorted(component["bom-ref"] for component in bill["components"]),
    }
    bill["dependencies"] = [each for each in bill["dependencies"] if each["ref"] != root["ref"]] + [root]
    return bill


def run(module: str, *words: str) -> str:
    """What a program of this environment prints; all that it makes bears the time of the last commit."""
    time = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=ROOT, text=True, stdout=subprocess.PIPE, check=False
    ).stdout.strip()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", module, *words],
        cwd=ROOT,
        env={**os.environ, "SOURCE_DATE_EPOCH": os.environ.get("SOURCE_DATE_EPOCH") or time or "0"},
        text=True,
        stdout=subprocess.PIPE,
        check=True,
    )
    return done.stdout


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    if changed := subprocess.check_output(["git", "status", "--porcelain"], cwd=ROOT, text=True):
        sys.exit(f"what is not committed would be in the release; commit it, or take it away:\n{changed}")
    for path in release(Path(sys.argv[1])):
        print(path)
