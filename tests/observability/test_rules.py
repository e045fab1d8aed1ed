"""Alert rules and dashboards, as files: tested, documented, in step. Proves: OP-3."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
import typer.main
import yaml
from click import Context
from docs.pages import ROOT, codes, read, table
from support.debian import DEBIAN

from fabric.cli.main import app

FOLDER = ROOT / "deploy"
RULES = FOLDER / "prometheus" / "rules" / "fabric.yml"
PROMTOOL = DEBIAN / "usr" / "bin" / "promtool"
GROUPS: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"]
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule}
RECORDED = {rule["record"] for group in GROUPS for rule in group["rules"] if "record" in rule}
TESTS: list[dict[str, Any]] = yaml.safe_load((FOLDER / "prometheus" / "fabric.test.yml").read_text())["tests"]
RUNBOOKS = sorted((ROOT / "docs" / "operations").glob("*.md"))
DASHBOARDS = run_path(str(FOLDER / "grafana" / "dashboards.py"))
KUBERNETES = run_path(str(FOLDER / "prometheus" / "kubernetes.py"))

_NAMED = re.compile(r"`(Fabric[A-Z]\w+)`")
_METRIC = re.compile(r"\b(?:fabric|process)_[a-z0-9_]+|\bfabric:[a-z0-9_:]+")


def test_promtool_finds_each_alert_firing_when_it_should_and_silent_else() -> None:
    done = subprocess.run(
        [PROMTOOL, "test", "rules", "fabric.test.yml"],
        cwd=FOLDER / "prometheus",
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_a_test_that_it_fires_and_one_that_it_is_silent() -> None:
    said = {test["name"] for test in TESTS}
    assert said == {f"{name} {how}" for name in ALERTS for how in ("fires", "is silent")}
    for test in TESTS:
        assert bool(test["promql_expr_test"][0].get("exp_samples")) == test["name"].endswith("fires")


@pytest.mark.parametrize("name", ALERTS)
def test_each_alert_says_how_grave_it_is_and_leads_to_its_runbook(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    assert f"`{name}`" in read(rule["annotations"]["runbook"])


def test_no_runbook_names_an_alert_that_there_is_not() -> None:
    assert {name for path in RUNBOOKS for name in _NAMED.findall(path.read_text())} == set(ALERTS)


@pytest.mark.parametrize("path", RUNBOOKS, ids=lambda path: path.stem)
def test_commands_in_runbooks_exist(path: Path) -> None:
    for words in (code.split() for code in codes(path.read_text()) if code.startswith("fabric ")):
        command: Any = typer.main.get_command(app)
        context = Context(command)
        for word in words[1:]:
            if not hasattr(command, "get_command"):
                break
            command = command.get_command(context, word)
            assert command is not None, " ".join(words)
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= options, " ".join(words)


@pytest.mark.parametrize("uid", DASHBOARDS["DASHBOARDS"])
def test_the_file_of_a_dashboard_is_what_the_script_writes(uid: str) -> None:
    assert (FOLDER / "grafana" / "provisioning" / "dashboards" / f"{uid}.json").read_text() == DASHBOARDS["text"](uid)


def test_the_rules_for_kubernetes_are_those_of_the_file() -> None:
    text = (ROOT / "k8s" / "base" / "rules.yaml").read_text()
    assert text == KUBERNETES["text"]()
    assert yaml.safe_load(text)["spec"]["groups"] == GROUPS


def test_rules_and_dashboards_ask_for_what_there_is() -> None:
    rows = table(read("docs/metrics.md"), "metric", "labels", "what it is")
    there = {name for row in rows for name in codes(row["metric"])}
    there |= {f"{name}{end}" for name in there for end in ("_bucket", "_count", "_sum")} | RECORDED
    rules = [rule["expr"] for group in GROUPS for rule in group["rules"]]
    panels = [
        query for _, panels in DASHBOARDS["DASHBOARDS"].values() for panel in panels for query in panel.queries.values()
    ]
    assert {name for query in (*rules, *panels) for name in _METRIC.findall(query)} <= there
