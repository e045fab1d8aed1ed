"""`fabric config`: what is wrong, what holds and where it is from, without any secret. Proves: OP-1, SE-7."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli.command import fabric
from cli.inside import fabric_inside

GOOD = """\
token = "s3cret"
nats_url = "nats://me:s3cret@host:4222"
[pools.shop]
target = "shop:agent"
[env.production]
log_level = "warning"
"""


def test_check_tells_of_all_environments(tmp_path: Path) -> None:
    file = tmp_path / "fabric.toml"
    file.write_text(GOOD)
    done = fabric_inside("config", "check", "--config", file, env={"COLUMNS": "300"})
    assert (done.code, done.out) == (0, f"{file}: no mistake\n")
    file.write_text(f'{GOOD}[env.test]\nlimits = "none.yaml"\n[env.other]\nlog_levl = "info"\n')
    done = fabric_inside("config", "check", "--config", file, env={})
    told = f"{file}:10: log_levl: there is no such setting; did you mean log_level or log_file?"
    done.refused(2, told, "none.yaml", "FABRIC_LIMITS")
    done = fabric_inside("config", "check", "--config", file, "--env", "test", env={})
    done.refused(2, "none.yaml")
    assert "log_levl" not in done.err
    fabric_inside("config", "check", "--config", tmp_path, env={}).refused(2, "there is no such file", "--config")


def test_all_mistakes_are_told_at_once_as_they_stand_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "fabric.toml"
    file.write_text("""\
port = "web"
limits = "none.yaml"
[pools.shop]
target = "shop.py"
processes = 0
[pools.mill]
target = "mill.py:agent"
capabilities = ["a b"]
wheels = 3
[env.open]
anonymous = true
host = "0.0.0.0"
[env.production.pools.shop]
target = "other.py"
[pool.mill]
target = "mill.py"
""")
    done = fabric_inside("config", "check", "--config", file, env={"FABRIC_POOLS": '{"yard": {"target": "yard.py"}}'})
    done.refused(2)
    said = [
        f"{file}:1: port: 'web': ",
        f"{file}:2: limits: {tmp_path}/none.yaml: ",
        f"{file}:4: pools.shop.target: there is no file {tmp_path}/shop.py",
        f"{file}:5: pools.shop.processes: 0: ",
        f"{file}:7: pools.mill.target: there is no file {tmp_path}/mill.py",
        f"{file}:8: pools.mill.capabilities: 'a b' cannot name a capability",
        f"{file}:9: pools.mill.wheels: there is no such setting",
        f"{file}:11: FABRIC_ANONYMOUS: without tokens",
        f"{file}:14: pools.shop.target: there is no file {tmp_path}/other.py",
        f"{file}:15: pool: there is no such setting",
        "FABRIC_POOLS.yard.target: there is no file yard.py",
    ]
    lines = done.err.removeprefix("error: ").splitlines()
    assert [line[: len(begin)] for line, begin in zip(lines, said, strict=True)] == said


def test_a_file_that_is_wrong_does_not_keep_anybody_from_looking(tmp_path: Path) -> None:
    file = tmp_path / "fabric.toml"
    file.write_text("port = \n")
    env = {"FABRIC_CONFIG": str(file)}
    fabric_inside("ps", env=env).refused(
        2, f"{file}:1: invalid value", "`fabric config check`", "FABRIC_CONFIG=/dev/null"
    )
    for named in (("--data", str(tmp_path)), ()):
        done = fabric_inside("ps", *named, env=env if named else {"FABRIC_CONFIG": "/dev/null"})
        done.refused(3, "no fabric is running")
    fabric_inside("ps", env={"FABRIC_PORT": "web"}).refused(2, "FABRIC_PORT: 'web'")


def test_doctor_tells_each_mistake_once_and_on_its_own_line(tmp_path: Path) -> None:
    file = tmp_path / "fabric.toml"
    file.write_text('prot = 1\n[pool.hello]\ntarget = "hello.py"\n')
    done = fabric_inside("doctor", env={"FABRIC_CONFIG": str(file)})
    assert done.code == 1
    assert [done.out.count(said) for said in (f"{file}:1: prot", f"{file}:2: pool", "fabric config check")] == [1, 1, 1]
    assert "\\n" not in done.out
    assert "nats       not known, as the settings are wrong" in done.out


def test_a_variable_without_effect_is_told_by_whoever_would_have_heard_it(tmp_path: Path) -> None:
    env = {
        "FABRIC_LOG_LEVL": "debug",
        "FABRIC_TOKN_FILE": "x",
        "FABRIC_XYZZY": "x",
        "FABRIC_NATS_URL": "nats://127.0.0.1:1",
    }
    hints = {
        "FABRIC_LOG_LEVL": "did you mean FABRIC_LOG_LEVEL or FABRIC_LOG_FILE?",
        "FABRIC_TOKN_FILE": "did you mean FABRIC_TOKEN_FILE or FABRIC_LOG_FILE?",
        "FABRIC_XYZZY": "unset it",
    }
    said = "".join(f"warning: {name} is no setting, and so without effect; {hint}\n" for name, hint in hints.items())
    checked = fabric_inside("config", "check", env=env)
    assert (checked.code, checked.err) == (0, said)
    started = fabric_inside("up", "--data", tmp_path, "--port", "0", env=env)
    assert (started.code, started.err[: len(said)]) == (2, said), "there is no such NATS"
    known = {"FABRIC_REPLICAS": "1", "FABRIC_MCP_URL": "x", "FABRIC_PROCESS": "x", "FABRIC_TASK_ACK_WAIT": "15"}
    assert fabric_inside("config", "check", env=known).err == ""


@pytest.mark.parametrize("command", ["gateway", "registry", "platform"])
def test_a_part_that_is_alone_tells_of_a_variable_without_effect(command: str) -> None:
    done = fabric(command, env={"FABRIC_TOKN": "x"})  # and it is told what it lacks, and ends
    said = "warning: FABRIC_TOKN is no setting, and so without effect; did you mean FABRIC_TOKEN?\n"
    assert (done.code, done.err[: len(said)]) == (2, said)


def test_a_worker_of_no_module_is_told_of_the_pools_that_there_are(tmp_path: Path) -> None:
    file = tmp_path / "fabric.toml"
    file.write_text('[pools.re-view]\ntarget = "a:b"\n[pools.mill]\ntarget = "a:b"\n')
    env = {"FABRIC_CONFIG": str(file), "FABRIC_NATS_URL": "nats://127.0.0.1:1"}
    fabric_inside("worker", "review", env=env).refused(2, "review is no module", "did you mean re-view?")
    fabric_inside("worker", "shop", env=env).refused(2, "file.py:object", "there are: mill, re-view")
    file.write_text("")
    fabric_inside("worker", "shop", env=env).refused(2, "there are: none")


def test_show_says_where_each_value_is_from_and_hides_what_is_secret(tmp_path: Path) -> None:
    file = tmp_path / "fabric.toml"
    file.write_text(GOOD)
    env = {"FABRIC_CONFIG": str(file), "FABRIC_ENV": "production", "FABRIC_PORT": "99"}
    done = fabric_inside("config", "show", "--json", env=env)
    found = {row["setting"]: row for row in done.json}
    assert found["token"] == {"setting": "token", "value": "********", "from": f"{file}:1", "live": False}
    assert found["nats_url"]["value"] == "nats://host:4222"
    assert (found["port"]["value"], found["port"]["from"]) == (99, "FABRIC_PORT")
    assert (found["log_level"]["from"], found["log_level"]["live"]) == (f"{file}:6", True)
    assert (found["pools.shop.processes"]["from"], found["pools.shop.processes"]["live"]) == ("default", True)
    shown = fabric_inside("config", "show", env=env | {"COLUMNS": "300"}).out
    assert "4.0MiB" in shown
    assert "s3cret" not in shown + done.out
    narrow = fabric("config", "show", env=env | {"COLUMNS": "60"}, cwd=tmp_path).out.splitlines()
    settings = {line.split()[0] for line in narrow if not line.startswith(" ")}
    assert settings == {"SETTING", *found}, "their names stay whole"
    assert max(map(len, narrow)) <= 60
    assert any(line.split() == ["log_level", "warning", "fabric.toml:6", "yes"] for line in narrow)


def test_schema_is_json() -> None:
    assert fabric_inside("config", "schema", env={}).json["title"] == "fabric.toml"
