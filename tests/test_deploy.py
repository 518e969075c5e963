"""What `deploy/` offers works: real load balancers find the leader, and real checkers find no fault."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from electorate.cli.plan import reserved_ports
from electorate.runtime.config import check
from tests.runtime_hosts import BOUND, E, in_loop
from tests.web_nodes import WebCluster, web_cluster

DEPLOY = Path(__file__).parent.parent / "deploy"


def program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert found, f"{name} is not installed; make test installs it"
    return found


def accept(*command: str | Path, text: str = "") -> None:
    """The command finds no fault."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=BOUND)
    assert done.returncode == 0, done.stdout + done.stderr


# --- load balancers: the service that they lead to is the node's own HTTP here, which says who it is -----------


def haproxy(cluster: WebCluster, port: int, directory: Path) -> list[str]:
    text = (DEPLOY / "haproxy/haproxy.cfg").read_text()
    text = text.replace("bind :80", f"bind 127.0.0.1:{port}")
    for number, (id, own) in enumerate(cluster.http.items(), 1):
        line = f"server {id} 10.0.0.{number}:8080 check port 8400"
        assert line in text
        text = text.replace(line, f"server {id} 127.0.0.1:{own} check port {own}")
    path = directory / "haproxy.cfg"
    path.write_text(text)
    return [program("haproxy"), "-db", "-f", str(path)]


def nginx(cluster: WebCluster, port: int, directory: Path) -> list[str]:
    text = (DEPLOY / "nginx/electorate.conf").read_text()
    text = text.replace("listen 80;", f"listen 127.0.0.1:{port};")
    for number, own in enumerate(cluster.http.values(), 1):
        text = re.sub(rf"10\.0\.0\.{number}:80[08]0|10\.0\.0\.{number}:8400", f"127.0.0.1:{own}", text)
        text = text.replace(rf"10\.0\.0\.{number}:8400", rf"127\.0\.0\.1:{own}")
    assert "10" + ".0.0" not in text
    (directory / "electorate.conf").write_text(text)
    places = "".join(
        f"{kind}_temp_path {directory}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    path = directory / "nginx.conf"
    path.write_text(
        f"daemon off; master_process off; pid {directory}/nginx.pid; error_log stderr; events {{}}"
        f"http {{ access_log off; {places} include {directory}/electorate.conf; }}"
    )
    return [program("nginx"), "-p", str(directory), "-c", str(path), "-e", "stderr"]


BALANCERS = {"haproxy": haproxy, "nginx": nginx}


@asynccontextmanager
async def balanced(
    cluster: WebCluster, balancer: Callable[[WebCluster, int, Path], list[str]], directory: Path
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a load balancer before this cluster."""
    with reserved_ports(1) as [port]:
        process = await asyncio.create_subprocess_exec(
            *balancer(cluster, port, directory), stderr=asyncio.subprocess.DEVNULL
        )
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=BOUND) as client:
                yield client
        finally:
            process.terminate()
            await process.wait()


async def reached(client: httpx.AsyncClient, node: str | None) -> None:
    """Ask until the node that answers is this one (None: until none does)."""
    answer = None
    async with asyncio.timeout(BOUND):
        while True:
            try:
                response = await client.get("/status")
                answer = response.json()["node"] if response.status_code == 200 else None
                if answer == node and response.status_code in (200, 503):
                    return
            except httpx.TransportError:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("name", BALANCERS)
@in_loop
async def test_a_load_balancer_follows_the_leader(tmp_path: Path, name: str) -> None:
    async with web_cluster(tmp_path) as cluster:
        first = await cluster.agreed()
        async with balanced(cluster, BALANCERS[name], tmp_path) as client:
            await reached(client, first.id)
            heir = min(cluster.hosts.keys() - {first.id})
            first.transfer(E, heir)
            await reached(client, heir)
            await cluster.stop(heir)
            third = await cluster.agreed()
            await reached(client, third.id)
            await cluster.stop(min(cluster.hosts.keys() - {third.id}))
            await reached(client, None)


# --- Prometheus and Grafana ---------------------------------------------------------------------------------


def test_alerts() -> None:
    accept(program("promtool"), "check", "rules", DEPLOY / "prometheus/alerts.yml")
    accept(program("promtool"), "test", "rules", DEPLOY / "prometheus/alerts_test.yml")


def expressions() -> list[str]:
    """All queries of the dashboard and of the alerts, with the variables of the dashboard filled in."""
    board = json.loads((DEPLOY / "grafana/electorate.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    filled = {"$job": "electorate", "$election": ".*", "$__rate_interval": "1m"}
    for variable, value in filled.items():
        queries = [query.replace(variable, value) for query in queries]
    rules = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())
    return queries + [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


def test_queries_are_what_prometheus_understands(tmp_path: Path) -> None:
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(expressions())]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    accept(program("promtool"), "check", "rules", path)


@in_loop
async def test_queries_ask_for_what_there_is(tmp_path: Path) -> None:
    async with web_cluster(tmp_path) as cluster:
        leader = await cluster.agreed()
        text = (await cluster.get(leader.id, "/metrics")).text
        offered = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    offered |= {f"{name}_bucket" for name in offered}
    asked = {name for query in expressions() for name in re.findall(r"\b(?:electorate|process)_\w+", query)}
    assert asked <= offered
    assert len(asked) > 12


@in_loop
async def test_metrics_are_named_as_prometheus_wants(tmp_path: Path) -> None:
    async with web_cluster(tmp_path) as cluster:
        leader = await cluster.agreed()
        accept(program("promtool"), "check", "metrics", text=(await cluster.get(leader.id, "/metrics")).text)


# --- Kubernetes, compose, systemd ---------------------------------------------------------------------------


def documents(path: str) -> dict[str, Any]:
    return {each["kind"]: each for each in yaml.safe_load_all((DEPLOY / path).read_text())}


def test_kubernetes_describes_one_cluster() -> None:
    found = documents("kubernetes/electorate.yaml")
    config = check(tomllib.loads(found["ConfigMap"]["data"]["cluster.toml"]))
    stateful = found["StatefulSet"]["spec"]
    service = found["Service"]
    namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
    assert stateful["serviceName"] == name
    assert [node.address for node in config.nodes.values()] == [
        f"{id}.{name}.{namespace}.svc.cluster.local:7400" for id in config.nodes
    ]
    assert [*config.nodes] == [
        f"{found['StatefulSet']['metadata']['name']}-{number}" for number in range(stateful["replicas"])
    ]
    assert stateful["template"]["spec"]["enableServiceLinks"] is False
    [container] = stateful["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert config.http_address("electorate-0") == ("0.0.0.0", ports["http"])
    assert {port["port"] for port in service["spec"]["ports"]} == set(ports.values())
    mounted = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert config.tls and config.http and config.http.token_file
    for path in (config.tls.ca, config.tls.cert, config.tls.key, config.http.token_file):
        assert str(Path(path).parent) in mounted
    secrets = [volume["secret"] for volume in stateful["template"]["spec"]["volumes"] if "secret" in volume]
    assert all(secret["defaultMode"] & 0o007 == 0 for secret in secrets), "a token open to all is refused"


def test_compose_describes_one_cluster() -> None:
    compose = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())
    config = check(tomllib.loads((DEPLOY / "compose/cluster.toml").read_text()))
    assert compose["services"].keys() == config.nodes.keys()
    for id, service in compose["services"].items():
        assert f"--id={id}" in service["command"]
        assert config.nodes[id].address == f"{id}:7400"
        targets = [volume.split(":")[1] for volume in service["volumes"]]
        assert config.http and config.http.token_file in targets
        assert config.secret_file in targets
    dockerfile = DEPLOY.parent / compose["x-node"]["build"]["dockerfile"]
    assert dockerfile.exists()


@in_loop
async def test_probes_ask_for_what_there_is(tmp_path: Path) -> None:
    texts = "".join(
        path.read_text() for path in DEPLOY.rglob("*.*") if path.suffix in (".yaml", ".cfg", ".conf")
    )
    asked = set(re.findall(r"(?:path: |8400|uri |nodes)(/\w+)", texts))
    assert asked == {"/health", "/ready", "/leader"}
    async with web_cluster(tmp_path, "a") as cluster:
        await cluster.agreed()
        for path in asked:
            assert (await cluster.get("a", path)).status_code == 200


def test_systemd_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "systemd/electorate@.service").read_text()
    assert "/opt/electorate/bin/elect node" in text
    path = tmp_path / "electorate@.service"
    path.write_text(text.replace("/opt/electorate/bin/elect", shutil.which("true") or ""))
    accept(program("systemd-analyze"), "verify", "--man=no", path)
