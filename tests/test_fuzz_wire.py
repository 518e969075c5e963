"""The fuzzers of `fuzz/` find nothing in a short run, and what they begin with is what nodes say."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytest.importorskip("atheris", reason="there is no atheris for this machine")


def fuzz(target: str, corpus: Path, *options: str) -> subprocess.CompletedProcess[str]:
    found = f"-artifact_prefix={corpus}/"
    command = [sys.executable, "-m", f"fuzz.{target}", *options, found, str(corpus)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("target", "runs"), [("frames", 20_000), ("greeting", 5_000)])
def test_a_short_run_finds_nothing(tmp_path: Path, target: str, runs: int) -> None:
    corpus = shutil.copytree(ROOT / "fuzz" / "corpus" / target, tmp_path / "corpus")
    seeds = len(list(corpus.iterdir()))
    assert seeds >= 8
    done = fuzz(target, corpus, f"-runs={runs}", "-seed=1", "-max_total_time=60")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done " in done.stderr
    assert len(list(corpus.iterdir())) > seeds, "new ways through the code were found"


def test_what_raises_is_found_and_kept(tmp_path: Path) -> None:
    """A decoder that trusts the length would be noticed."""
    corpus = shutil.copytree(ROOT / "fuzz" / "corpus" / "frames", tmp_path / "corpus")
    careless = (
        "import atheris, sys, fuzz.frames as frames\n"
        "from electorate.runtime import wire\n"
        "wire.Decoder.decode = lambda self, body: self.decoder.decode(body)\n"
        "atheris.Setup(sys.argv, frames.take)\n"
        "atheris.Fuzz()\n"
    )
    options = ["-runs=20000", "-seed=1", f"-artifact_prefix={tmp_path}/", str(corpus)]
    done = subprocess.run(
        [sys.executable, "-c", careless, *options], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert list(tmp_path.glob("crash-*"))
