"""Any configuration at all is a configuration, or one sentence that names where it is wrong."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from electorate.core.model import Timing
from electorate.errors import UserError
from electorate.runtime.config import Config, Http, NodeConfig, Tls, configure, load

KEYS = sorted(
    {field.name for type in (Config, NodeConfig, Timing, Tls, Http) for field in msgspec.structs.fields(type)}
    | {"a", "b", "c", "nodes.a", "", "é", "a.b", '"'}
)
WORDS = [
    "raft",
    "zab",
    "voter",
    "observer",
    "a",
    "",
    "127.0.0.1:7400",
    "[::1]:0",
    "::",
    ":80",
    "a:b:c",
    "x:99999",
    "\0",
    "é",
]

scalars = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-3, 3),
    st.floats(),
    st.floats(0, 2),
    st.sampled_from(WORDS),
    st.text(max_size=8),
    st.datetimes(),
    st.times(),
)
keys = st.sampled_from(KEYS) | st.text(max_size=5)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=5),
    max_leaves=12,
)
node = st.fixed_dictionaries(
    {"address": st.sampled_from(WORDS)},
    optional=dict.fromkeys(("kind", "role", "priority", "weight", "group", "http"), scalars),
)
nearly = st.fixed_dictionaries(
    {"nodes": st.dictionaries(st.sampled_from(["a", "b", "c", "", "a b", "é"]), node | scalars, max_size=4)},
    optional={
        "cluster": scalars,
        "algorithm": st.sampled_from(["raft", "bully", "zab", "ring", "paxos"]),
        "quorum": scalars,
        "timing": st.dictionaries(
            st.sampled_from(["beat", "lease", "drift", "patience"]), scalars, max_size=4
        ),
        "tls": anything,
        "http": anything,
        "elections": anything,
        "insecure": scalars,
        "secret_file": scalars,
    },
)
documents = nearly | st.dictionaries(keys, anything, max_size=6)
budget = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "200")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def said(path: Path) -> str:
    """What is wrong with this file: one sentence, or nothing."""
    try:
        assert isinstance(load(path), Config)
    except UserError as error:
        sentence = str(error)
        assert sentence.startswith(str(path))
        assert len(sentence) > len(str(path)) + 5
        return sentence
    return ""


@given(document=documents)
@budget
def test_any_toml_is_a_configuration_or_one_sentence(document: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(UnicodeEncodeError):
        path = Path(folder) / "cluster.toml"
        path.write_bytes(msgspec.toml.encode(document))
        said(path)


@given(
    content=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))
)
@example(content=b"\xff")
@example(content=b"nodes = 1\n")
@example(content=b"[nodes]\na = {}\n")
@budget
def test_any_bytes_are_a_configuration_or_one_sentence(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cluster.toml"
        path.write_bytes(content)
        said(path)


NAMES = st.sampled_from(sorted(key.upper() for key in KEYS if key.isidentifier())) | st.text(max_size=6)


@given(
    environ=st.dictionaries(
        NAMES.map("ELECTORATE_".__add__), st.sampled_from(WORDS) | st.text(max_size=12), max_size=4
    ),
    arguments=st.dictionaries(keys, anything, max_size=3),
    content=documents,
)
@budget
def test_any_variables_and_arguments_are_a_configuration_or_one_sentence(
    environ: dict[str, str], arguments: dict[str, Any], content: dict[str, Any]
) -> None:
    environ.pop("ELECTORATE_CONFIG", None)
    try:
        assert isinstance(configure(content, arguments, environ), Config)
    except UserError as error:
        assert str(error)
