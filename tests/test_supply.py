"""What is installed and what is released: locks, floors, images, and the artefacts of `make release`."""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from electorate.version import __version__
from tests.release import LOCK, ROOT, digest, pins, release

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def group(name: str) -> list[str]:
    """What a group of dependencies stands for."""
    found: list[str] = []
    for need in PROJECT["dependency-groups"][name]:
        found += group(need["include-group"]) if isinstance(need, dict) else [need]
    return found


def extras() -> list[str]:
    optional = PROJECT["project"]["optional-dependencies"]
    assert optional["all"] == [f"electorate[{','.join(sorted(set(optional) - {'all'}))}]"]
    return [
        *PROJECT["project"]["dependencies"],
        *(n for x, needs in optional.items() if x != "all" for n in needs),
    ]


@pytest.mark.parametrize(
    ("lock", "needs"),
    [
        ("cli", [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["cli"]]),
        ("image", extras()),
        ("dev", [*extras(), *group("dev")]),
        ("build", group("build")),
    ],
    ids=["cli", "image", "dev", "build"],
)
def test_locks_hold_all_that_is_needed_with_hashes(lock: str, needs: list[str]) -> None:
    """If this fails: make lock."""
    path = ROOT / "locks" / f"{lock}.txt"
    held = pins(path)
    assert all(hashes for _, hashes in held.values())
    entries = re.findall(r"^\w.*", path.read_text(), re.MULTILINE)
    assert len(entries) == len(held), "each entry is a pin, and none an address or a file"
    for need in map(Requirement, needs):
        version, _ = held[canonicalize_name(need.name)]
        assert version in need.specifier, need
    dev = pins(ROOT / "locks" / "dev.txt")
    assert {name: dev[name] for name in held} == held, "no package has two versions"


def test_floors_are_versions_that_have_been_tried() -> None:
    """`make test-lowest` installs these; each is one number, so that it can."""
    for need in map(Requirement, extras()):
        [floor] = need.specifier
        assert floor.operator == ">=", need
        version, _ = pins(LOCK)[canonicalize_name(need.name)]
        assert Version(floor.version) <= Version(version)
    makefile = (ROOT / "Makefile").read_text()
    api = next(need for need in map(Requirement, extras()) if need.name == "opentelemetry-api")
    assert f"opentelemetry-sdk=={str(api.specifier)[2:]}.0" in makefile, "its sdk goes with it"


def test_images_are_made_of_what_is_locked_on_a_base_that_is_named_exactly() -> None:
    text = (ROOT / "deploy" / "compose" / "Dockerfile").read_text()
    [base] = re.findall(r"^ARG BASE=(.*)$", text, re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", base)
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${BASE}"}
    installed = re.findall(r"pip install.*", text)
    assert installed and all("--require-hashes" in each or "--no-index" in each for each in installed)
    images = [
        image
        for path in (ROOT / "deploy").rglob("*.yaml")
        for image in re.findall(r"^\s*image: (\S+)", path.read_text(), re.MULTILINE)
    ]
    assert set(images) == {f"electorate:{__version__}"}


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return release(tmp_path_factory.mktemp("released"))


@pytest.mark.waits
def test_a_release_is_the_same_whoever_makes_it(released: list[Path], tmp_path: Path) -> None:
    again = release(tmp_path / "again")
    assert [path.name for path in released] == [path.name for path in again]
    assert [digest(path) for path in released] == [digest(path) for path in again]


def test_the_sums_are_right(released: list[Path]) -> None:
    *files, sums = released
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", sums.name], cwd=sums.parent, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.splitlines()) == (0, [f"{path.name}: OK" for path in files])


def test_the_bill_of_materials_names_each_package_of_the_lock_with_its_hashes(released: list[Path]) -> None:
    wheel, _, bill, _ = released
    told = json.loads(bill.read_text())
    assert (told["bomFormat"], told["metadata"]["component"]["name"]) == ("CycloneDX", "electorate")
    component = told["metadata"]["component"]
    assert (component["version"], component["purl"]) == (__version__, f"pkg:pypi/electorate@{__version__}")
    assert component["licenses"][0]["license"]["id"] == "Apache-2.0"
    assert component["hashes"] == [{"alg": "SHA-256", "content": digest(wheel)}]
    named = {
        each["name"]: (
            each["version"],
            frozenset(
                found["content"] for place in each["externalReferences"] for found in place.get("hashes", ())
            ),
        )
        for each in told["components"]
    }
    assert named == pins(LOCK)
    assert {each["purl"] for each in told["components"]} == {
        f"pkg:pypi/{name}@{version}" for name, (version, _) in named.items()
    }
    [root] = [each for each in told["dependencies"] if each["ref"] == component["bom-ref"]]
    assert root["dependsOn"] == sorted(each["bom-ref"] for each in told["components"])
    assert str(ROOT) not in bill.read_text()


def test_the_wheel_holds_the_package_and_nothing_else(released: list[Path]) -> None:
    with zipfile.ZipFile(released[0]) as wheel:
        names = wheel.namelist()
        text = wheel.read(f"electorate-{__version__}.dist-info/METADATA").decode()
    assert {name.split("/")[0] for name in names} == {"electorate", f"electorate-{__version__}.dist-info"}
    ours = {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src" / "electorate").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert ours <= {*names}
    assert f"\nVersion: {__version__}\n" in text and "\nLicense-Expression: Apache-2.0\n" in text
    with tarfile.open(released[1]) as source:
        held = {name.partition("/")[2] for name in source.getnames()}
    assert {"SECURITY.md", "locks/image.txt", "pyproject.toml", "LICENSE", "tests/release.py"} <= held
