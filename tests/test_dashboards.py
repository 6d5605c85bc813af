"""The dashboard and the alerts, asked of a real Prometheus that scrapes a running demo."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from demo_rig import FEW, METRICS, ROOT, Demo, await_true, demo
from redis_rig import free_port
from websockets.sync.client import connect

from actors.runtime.metrics import AT_ZERO, TABLE, Metrics
from actors.runtime.supervisor import TARGETS

GRAFANA = ROOT / "grafana"
OVERVIEW = json.loads((GRAFANA / "dashboards" / "overview.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in OVERVIEW["panels"] if panel["type"] != "row"]
TARGETS_OF = {
    f"{panel['title']} {target['refId']}": target for panel in PANELS for target in panel["targets"]
}
SHOWN = "\n".join(target["expr"] for target in TARGETS_OF.values())
RULES = (GRAFANA / "rules.yml").read_text(encoding="utf-8")
NAME = re.compile(r"\btapeline_[a-z0-9_]+\b")
# What a demo in which nothing fails never does, and nobody can say how long it takes.
IDLE = {"tapeline_checkpoint_seconds", "tapeline_master_commit_seconds"}


# -- without a server


def test_the_committed_dashboard_is_the_generated_one(tmp_path: Path):
    folder = tmp_path / "grafana"
    shutil.copytree(GRAFANA, folder)
    written = folder / "dashboards" / "overview.json"
    written.unlink()
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, folder / "generate.py"], env=env, check=True)
    assert written.read_bytes() == (GRAFANA / "dashboards" / "overview.json").read_bytes(), "make dashboards"


def test_every_counter_of_loss_has_a_panel_of_its_own():
    exprs = [[target["expr"] for target in panel["targets"]] for panel in PANELS]
    for name in (name for name, row in TABLE.items() if row.loss):
        assert [1 for own in exprs if all(name in expr for expr in own) and len(NAME.findall(own[0])) == 1], (
            name
        )


def test_every_metric_is_shown_and_nothing_else_is():
    named = {name.removesuffix("_bucket") for name in NAME.findall(SHOWN)}
    assert named == {*TABLE}
    assert {*NAME.findall(RULES)} <= {*TABLE}


def test_panels_have_numbers_of_their_own_and_lie_beside_each_other():
    ids = [panel["id"] for panel in OVERVIEW["panels"]]
    assert len(ids) == len({*ids})
    cells = [
        (x, y)
        for at in (panel["gridPos"] for panel in OVERVIEW["panels"])
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len({*cells})
    assert max(x for x, _ in cells) < 24
    assert OVERVIEW["schemaVersion"] == 42


def test_the_provisioned_datasource_and_folder_are_those_of_the_dashboard():
    source = (GRAFANA / "provisioning/datasources/tapeline.yml").read_text(encoding="utf-8")
    uid = re.search(r"^ +uid: (\S+)$", source, re.MULTILINE)
    assert uid is not None
    for panel in PANELS:
        assert {of["datasource"]["uid"] for of in (panel, *panel["targets"])} == {uid[1]}
    provider = (GRAFANA / "provisioning/dashboards/tapeline.yml").read_text(encoding="utf-8")
    path = re.search(r"^ +path: (\S+)$", provider, re.MULTILINE)
    assert path is not None
    folder = Path(path[1].replace("${GF_PATHS_PROVISIONING}", str(GRAFANA / "provisioning")))
    assert (folder / "overview.json").exists()
    scraped = re.search(r"scrape_interval: (\S+)", (GRAFANA / "prometheus.yml").read_text(encoding="utf-8"))
    assert scraped is not None
    assert f"timeInterval: {scraped[1]} " in source


def test_what_may_never_happen_stands_at_zero_before_it_does():
    for name, by_role in AT_ZERO.items():
        for role in by_role:
            metrics = Metrics()
            metrics.stand(role, venue="binance", partition="binance.0")
            families = {family.name: family for family in metrics.registry.collect()}
            own = families[name.removesuffix("_total")].samples
            assert own, (name, role)
            assert all(s.value == 0 and {*s.labels} - {"le"} == {*TABLE[name].labels} for s in own)
            assert not [s for s in own if "" in s.labels.values()]
    assert {name for name, row in TABLE.items() if row.loss} <= {*AT_ZERO}


def test_only_what_is_known_stands_at_zero():
    metrics = Metrics()
    metrics.stand("broadcaster")
    names = {family.name for family in metrics.registry.collect()}
    assert "tapeline_skipped" in names
    assert not names & {"tapeline_rollbacks", "tapeline_gaps", "tapeline_poison"}


# -- with one


class Prometheus:
    """One server, over the demo whose folder it stands in."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.config = folder / "grafana" / "prometheus.yml"
        self.log = folder / "prometheus.log"
        shutil.copytree(GRAFANA, self.config.parent)
        text = self.config.read_text(encoding="utf-8")
        for slow, fast in (("scrape_interval: 5s", "500ms"), ("scrape_timeout: 4s", "500ms"),
                           ("refresh_interval: 10s", "500ms")):  # fmt: skip
            assert slow in text
            text = text.replace(slow, f"{slow.partition(':')[0]}: {fast}")
        self.config.write_text(text, encoding="utf-8")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(self._command(), cwd=folder, stdout=log, stderr=log)
        await_true("Prometheus is ready", self._ready)

    def _command(self) -> list[str]:
        """Return the command of grafana/README.md, listening elsewhere."""
        guide = (GRAFANA / "README.md").read_text(encoding="utf-8")
        line = next(line for line in guide.splitlines() if line.startswith("prometheus "))
        assert "127.0.0.1:9090" in line
        words = shlex.split(line.replace("127.0.0.1:9090", f"127.0.0.1:{self.port}"))
        return [found(words[0]), *words[1:]]

    def _ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=30):
                return True
        except OSError:
            return False

    def get(self, path: str, **query: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as e:
            raise AssertionError(f"{query}: {e.read().decode()}") from e

    def ask(self, expr: str) -> list[dict[str, Any]]:
        return self.get("query", query=expr.replace("$__rate_interval", "5s"))["result"]

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def found(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no {program} on this machine")
    return path


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    found("prometheus")
    with demo(tmp_path_factory.mktemp("demo"), FEW) as made:
        yield made.start().live()


@pytest.fixture(scope="module")
def prometheus(running: Demo) -> Iterator[Prometheus]:
    url = f"ws://127.0.0.1:{9001 + running.offset}"
    made = Prometheus(running.folder)
    try:
        with connect(url, max_queue=None):
            await_true("every role is scraped twice", lambda: scraped(made) >= {*METRICS})
            yield made
    finally:
        made.close()


def scraped(of: Prometheus) -> set[str]:
    twice = of.ask("count_over_time(up[1m]) > 2 and up == 1")
    return {one["metric"]["process"].partition(".")[0] for one in twice}


def test_prometheus_scrapes_every_role_that_has_a_target_file(running: Demo, prometheus: Prometheus):
    files = {path.stem.partition(".")[0] for path in (running.folder / TARGETS).glob("*.json")}
    assert files >= {*METRICS}
    assert scraped(prometheus) == {*METRICS}


@pytest.mark.parametrize("role", METRICS)
def test_promtool_finds_no_fault_with_the_metrics_of_a_role(running: Demo, role: str):
    text = running.get("/metrics", METRICS[role])
    checked = subprocess.run(
        [found("promtool"), "check", "metrics"], input=text, capture_output=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, b"")
    assert b"tapeline_" in text


def test_promtool_finds_no_fault_with_configuration_and_rules(prometheus: Prometheus):
    for what, path in (("config", prometheus.config), ("rules", GRAFANA / "rules.yml")):
        checked = subprocess.run(
            [found("promtool"), "check", what, "--lint-fatal", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert "SUCCESS" in checked.stdout


def test_every_expression_of_the_dashboard_shows_something(prometheus: Prometheus):
    def empty() -> list[str]:
        return [name for name, target in TARGETS_OF.items() if not prometheus.ask(target["expr"])]

    def silent() -> bool:
        return not empty()

    try:
        await_true("all show something", silent)
    except AssertionError as e:
        raise AssertionError(f"nothing in {empty()}") from e


def test_every_name_of_a_series_is_made_of_labels_that_it_has(prometheus: Prometheus):
    for name, target in TARGETS_OF.items():
        wanted = {*re.findall(r"{{(\w+)}}", target["legendFormat"])}
        for series in prometheus.ask(target["expr"]):
            assert wanted <= {*series["metric"]}, name


def test_every_latency_is_a_number_while_events_flow(prometheus: Prometheus):
    for name, target in TARGETS_OF.items():
        if "_bucket" in target["expr"] and not any(idle in target["expr"] for idle in IDLE):
            await_true(name, lambda expr=target["expr"]: all_numbers(prometheus.ask(expr)))


def all_numbers(series: list[dict[str, Any]]) -> bool:
    return bool(series) and all(one["value"][1] != "NaN" for one in series)


def test_every_alert_names_its_first_step_and_watches_what_is_there(prometheus: Prometheus):
    groups = await_true("the rules are loaded", lambda: prometheus.get("rules")["groups"])
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == RULES.count("- alert: ")
    for rule in rules:
        assert rule["annotations"]["first_step"], rule["name"]
        watched, compared = re.subn(r" (==|>) \d+$", "", rule["query"])
        assert compared == 1, rule["name"]
        assert prometheus.ask(watched), f"{rule['name']} watches nothing: {watched}"
    alerted = {name for name in TABLE if TABLE[name].loss} - {*NAME.findall(RULES)}
    assert alerted == set(), "a loss that nobody is told of"
