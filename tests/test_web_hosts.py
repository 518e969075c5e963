"""The Host that a request names: a page of another name learns nothing, and all that deploy/ asks is answered."""

from __future__ import annotations

import asyncio
import json
import logging
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from electorate.errors import UserError
from electorate.runtime.config import Config, check, configure
from electorate.web.hosts import Hosts
from tests.runtime_hosts import BOUND, in_loop
from tests.web_nodes import WebCluster, web_cluster

DEPLOY = Path(__file__).parent.parent / "deploy"
PATHS = (
    "/status",
    "/leader",
    "/health",
    "/ready",
    "/elections",
    "/events",
    "/metrics",
    "/openapi.json",
    "/none",
)


async def said(cluster: WebCluster, request: str) -> tuple[int, str]:
    """The status of the answer, and all of it, to a request as it is written here."""
    async with asyncio.timeout(BOUND):
        reader, writer = await asyncio.open_connection("127.0.0.1", cluster.http["a"])
        writer.write(f"{request}\r\n\r\n".encode("latin-1"))
        answer = (await reader.read()).decode()
        writer.close()
    return int(answer.split()[1]), answer


def get(path: str, *headers: str, version: str = "1.1") -> str:
    return "\r\n".join([f"GET {path} HTTP/{version}", "Connection: close", *headers])


@in_loop
async def test_a_page_of_another_name_reads_nothing_and_commands_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It has let its name stand for this address (DNS rebinding), and its browser says which name that is."""
    (tmp_path / "token").touch(0o600)
    (tmp_path / "token").write_text("a token")
    async with web_cluster(tmp_path, "a", http={"token_file": "token"}) as cluster:
        leader = await cluster.agreed()
        for path in PATHS:
            status, answer = await said(cluster, get(path, "Host: evil.example"))
            assert status == 421, path
            assert json.loads(answer.partition("\r\n\r\n")[2]) == {
                "error": "this node does not go by the Host that was named: if it should, add that to"
                " http.hosts in its cluster file"
            }
        term = leader.tenure("main")[0]
        answered = await cluster.clients["a"].post(
            "/resign",
            json={"election": "main"},
            headers={
                "host": "evil.example",
                "origin": "http://evil.example",
                "authorization": "Bearer a token",
            },
        )
        assert answered.status_code == 421
        assert leader.tenure("main")[0] == term
        text = (await cluster.get("a", "/metrics")).text
    assert f'electorate_refusals_total{{reason="host"}} {len(PATHS) + 1}.0' in text
    told = [record for record in caplog.records if record.name == "electorate.a.http"]
    assert [record.getMessage() for record in told] == [
        "refusing 127.0.0.1, who calls this node 'evil.example': that is not in http.hosts"
    ]
    assert told[0].levelno == logging.WARNING


FOREIGN = (
    "evil.example",
    "evil.example:8400",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "a.evil.example",
    "notexample.com",
    "example.com.evil",
    "127.0.0.1:80:80",
    "127.0.0.1:http",
    "127.0.0.1@evil.example",
    "[::1",
    "[evil]",
    "[::1]evil",
    "2130706433",
    "a b",
    "\xff",
    "b",
)
OWN = (
    "localhost",
    "LOCALHOST:8400",
    "localhost.:1",
    "node.localhost",
    "127.0.0.1:1",
    "127.8.9.1",
    "[::1]:8400",
    "10.244.1.7:8400",
    "[fd00::7]:8400",
    "a",
    "A:8400",
    "elect.example.com",
    "Elect.Example.COM:443",
    "deep.in.cluster.local",
    "",
)


@in_loop
async def test_hosts_that_are_refused_and_hosts_that_are_answered(tmp_path: Path) -> None:
    """An address cannot be made to stand for another machine, so probes may use any."""
    hosts = ["elect.example.com", "*.cluster.local"]
    async with web_cluster(tmp_path, "a", http={"hosts": hosts}) as cluster:
        await cluster.agreed()
        for host in FOREIGN:
            assert (await said(cluster, get("/status", f"Host: {host}")))[0] == 421, host
        for host in OWN:
            assert (await said(cluster, get("/status", f"Host: {host}")))[0] == 200, host


@in_loop
async def test_a_probe_of_http_1_0_names_no_host_and_one_of_http_1_1_must_name_one(tmp_path: Path) -> None:
    async with web_cluster(tmp_path, "a") as cluster:
        await cluster.agreed()
        assert (await said(cluster, get("/leader", version="1.0")))[0] == 200
        assert (await said(cluster, get("/leader", "Host: evil.example", version="1.0")))[0] == 421
        assert (await said(cluster, get("/leader")))[0] == 400
        assert (await said(cluster, get("/leader", "Host: localhost", "Host: evil.example")))[0] == 400
        assert (await said(cluster, get("/leader", "Host: evil.example", "X-Forwarded-Host: a")))[0] == 421
        assert (await said(cluster, get("http://localhost/status", "Host: evil.example")))[0] == 421


@in_loop
async def test_a_star_allows_every_host(tmp_path: Path) -> None:
    async with web_cluster(tmp_path, "a", http={"hosts": ["*"]}) as cluster:
        await cluster.agreed()
        assert (await said(cluster, get("/leader", "Host: whatever.example")))[0] == 200


def hosts_of(node: str, **settings: Any) -> Hosts:
    return Hosts(configure(settings, {}, {}), node)


def test_a_node_goes_by_all_that_it_is_configured_with() -> None:
    nodes = {
        "one": {"address": "Db1.example:7400", "bind": "inside.example:7400", "http": "köln.example:8400"},
        "two": "db2.example:7400",
    }
    hosts = hosts_of("one", nodes=nodes, insecure=True)
    for name in ("one", "db1.example:8400", "inside.example", "xn--kln-sna.example", "localhost"):
        assert hosts.include(name), name
    for name in ("two", "db2.example", "example", "x.db1.example"):
        assert not hosts.include(name), name


def kubernetes() -> Config:
    found = {
        each["kind"]: each for each in yaml.safe_load_all((DEPLOY / "kubernetes/electorate.yaml").read_text())
    }
    return check(tomllib.loads(found["ConfigMap"]["data"]["cluster.toml"]))


def test_what_is_asked_where_deploy_puts_it_is_answered() -> None:
    """By the kubelet (the address of the pod), by Prometheus, which finds pods by address or by name, by clients
    of the service, and by containers of one network."""
    pod = Hosts(kubernetes(), "electorate-1")
    names = [
        "10.244.1.7:8400",
        "[fd00::7]:8400",
        "electorate.electorate.svc:8400",
        "electorate.electorate",
        "electorate",
    ]
    names += [
        f"{name}.electorate.electorate.svc.cluster.local:8400" for name in ("electorate-1", "electorate-0")
    ]
    for name in (*names, "electorate.electorate.svc.cluster.local."):
        assert pod.include(name), name
    assert not pod.include("evil.example")
    container = Hosts(check(tomllib.loads((DEPLOY / "compose/cluster.toml").read_text())), "a")
    for name in ("a:8400", "localhost:8401", "127.0.0.1:8400", "172.18.0.2:8400"):
        assert container.include(name), name
    nginx = (DEPLOY / "nginx/electorate.conf").read_text()
    assert "proxy_set_header Host localhost;" in nginx
    assert "Host" not in (DEPLOY / "haproxy/haproxy.cfg").read_text(), "it asks by HTTP/1.0, which needs none"


@pytest.mark.parametrize(
    "host",
    [
        "",
        "http://a.example",
        "a.example:8400",
        "a.example/x",
        "*a.example",
        "a.*.example",
        "*.",
        "a b",
        "x" * 64,
    ],
)
def test_what_is_no_host_is_one_sentence(host: str) -> None:
    with pytest.raises(UserError) as raised:
        hosts_of("a", nodes={"a": "127.0.0.1:1"}, http={"hosts": [host]})
    assert str(raised.value).startswith(
        f"the configuration: http.hosts: '{host}' is no name of a host; say it wi"
    )


def test_hosts_may_come_from_the_environment() -> None:
    config = configure(
        {"nodes": {"a": "127.0.0.1:1"}}, {}, {"ELECTORATE_HTTP_HOSTS": "x.example,*.y.example"}
    )
    assert config.http and config.http.hosts == ("x.example", "*.y.example")
    assert Hosts(config, "a").include("z.y.example") and not Hosts(config, "a").include("y.example")
