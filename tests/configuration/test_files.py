"""Settings from a file, its environments and secret files, each with its place. Proves: OP-1, SE-7."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema_rs import Draft202012Validator

from fabric.settings import PoolSettings, Settings, SettingsError, load_settings
from fabric.settings.document import Key, parse
from fabric.settings.keys import changed, flat, is_live, merged
from fabric.settings.loading import Configuration, gather, resolve
from fabric.settings.passing import LiveFile, fixed
from fabric.settings.places import find
from fabric.settings.schema import schema
from fabric_sdk.contracts.errors import ConfigurationError

FILE = """\
log_level = "info"
policy = "policies/policy.yaml"
[pools.shop]
target = "agents/shop.py:agent"
processes = 2

[env.production]
log_level = "warning"
allowed_hosts = [
  "a.example",
]
[env.production.pools.shop]
processes = 8
"""


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("FABRIC_ENV", "FABRIC_CONFIG", "FABRIC_LOG_LEVEL", "FABRIC_PORT", "FABRIC_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def written(folder: Path, text: str, name: str = "fabric.toml") -> Path:
    file = folder / name
    file.parent.mkdir(exist_ok=True, parents=True)
    file.write_text(text)
    return file


def read(file: Path, environment: str = "") -> Configuration:
    return resolve(gather(file), {}, environment=environment)


def refused(file: Path, environment: str = "") -> list[str]:
    """The lines of the error, without the path that each begins with."""
    with pytest.raises(SettingsError) as raised:
        read(file, environment)
    assert all(line.startswith((f"{file}:", "FABRIC_")) for line in raised.value.lines)
    return [line.removeprefix(f"{file}:") for line in raised.value.lines]


# where a value stands

NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,5}", fullmatch=True)
VALUES = st.sampled_from(["1", '"x"', '"# ["', "[\n  1, # ]\n  2,\n]", '"""\n[t]\nk = 1\n"""', "{ a = 1 }", "'''\n'''"])


@given(
    st.lists(st.tuples(NAMES, VALUES, st.sampled_from(["", "\n", "# k = 1\n"])), unique_by=lambda row: row[0]), NAMES
)
def test_every_value_is_found_on_the_line_where_it_is_written(rows: list[tuple[str, str, str]], table: str) -> None:
    text, expected = f"[{table}]\n", dict[Key, int]({(table,): 1})
    for name, value, before in rows:
        text += before
        expected[table, name] = text.count("\n") + 1
        text += f"{name} = {value}\n"
    document = parse(Path("x.toml"), text.encode())
    assert document.values == tomllib.loads(text)
    assert {key: document.lines[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"a = 1\nb = \n", '2: invalid value; write NAME = VALUE, and as a value "text", '),
        (b"host = localhost\n", '1: invalid value; write NAME = VALUE, and as a value "text", '),
        (b"a = 1\n[x\n", "2: expected ']' at the end of a table declaration; end it with ]"),
        (b"port = 1\nport = 2\n", "2: cannot overwrite a value; say it once"),
        (b"a = [1,\n2\n", "2: unclosed array; end it with ]"),
        (b'a = "C:\\data"\n', "1: unescaped '\\' in a string; write two of them, or put the text in single quotes"),
        (b"a = 1\n# \xff\n", "2: it is no UTF-8; save it as such"),
    ],
)
def test_what_is_no_toml_is_told_with_its_line_and_what_is_right(tmp_path: Path, text: bytes, said: str) -> None:
    file = tmp_path / "fabric.toml"
    file.write_bytes(text)
    (line,) = refused(file)
    assert line.startswith(said)


# the order of places


def test_each_place_goes_before_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [
        lambda: written(tmp_path, 'token = "file"\n[env.test]\n'),
        lambda: written(tmp_path, 'token = "file"\n[env.test]\ntoken = "overlay"\n'),
        lambda: monkeypatch.setenv("FABRIC_TOKEN_FILE", str(written(tmp_path, "secret-file\n", "token"))),
        lambda: monkeypatch.setenv("FABRIC_TOKEN", "environment"),
    ]
    monkeypatch.setenv("FABRIC_ENV", "test")
    seen: list[str] = []
    for place in places:
        place()
        token = load_settings().token
        seen.append(token.get_secret_value() if token else "")
    token = load_settings(token="typed").token
    assert token
    assert [*seen, token.get_secret_value()] == ["file", "overlay", "secret-file", "environment", "typed"]


def test_an_environment_is_laid_over_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, FILE)
    base, production = read(file), read(file, "production")
    shop = PoolSettings.model_validate({"target": f"{tmp_path}/agents/shop.py:agent", "processes": 2})
    assert base.settings.pools == {"shop": shop}
    assert production.settings.pools == {"shop": shop.model_copy(update={"processes": 8})}
    assert (base.settings.log_level, production.settings.log_level) == ("info", "warning")
    assert production.settings.policy == tmp_path / "policies" / "policy.yaml", "it is named from where the file stands"
    where = {key: origin.where.removeprefix(f"{file}:") for key, origin in production.origins.items()}
    assert (where["log_level"], where["allowed_hosts"], where["policy"]) == ("8", "9", "2")
    assert (where["pools.shop.processes"], where["pools.shop.target"]) == ("13", "4")
    assert refused(file, "prod") == [f"FABRIC_ENV: there is no [env.prod] in {file}; there are: production"]


def test_the_file_is_named_or_stands_where_it_is_usual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find() is None
    of_user = written(tmp_path / "home" / "agent-fabric", "port = 1")
    assert find() == of_user
    here = written(tmp_path, "port = 2")
    assert find() == here
    named = written(tmp_path, "port = 3", "other.toml")
    monkeypatch.setenv("FABRIC_CONFIG", str(named))
    assert find() == named
    assert find(here) == here
    assert load_settings().port == 3
    with pytest.raises(ConfigurationError, match="there is no such file"):
        find(tmp_path / "none.toml")


# mistakes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\nprot = 1", "2: prot: there is no such setting; did you mean root or port?"),
        ('port = "web"', "1: port: 'web': input should be a valid integer"),
        ("[pools.shop]\nprocesses = 2", "1: pools.shop.target: it is missing"),
        (
            '[pools.shop]\ntarget = "x:y"\nprocesess = 2',
            "3: pools.shop.procesess: there is no such setting; did you mean",
        ),
        ('[pools.shop]\ntarget = "x:y"\nprocesses = 0', "3: pools.shop.processes: 0: "),
        ('[pools."a b"]\ntarget = "x:y"', "1: pools.a b: a pool's name has 1 to 64 letters"),
        ("pools.shop = 3", "1: pools.shop: it has to be a table"),
        ("env = 3", "1: env: it takes tables"),
        ('anonymous = true\nhost = "0.0.0.0"', "1: FABRIC_ANONYMOUS: without tokens"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_what_is_right(tmp_path: Path, text: str, said: str) -> None:
    (line,) = refused(written(tmp_path, text))
    assert line.startswith(said)


def test_all_mistakes_are_told_at_once_and_no_secret_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = refused(written(tmp_path, 'redis_url = "http://:s3cret@h"\nport = -1\nprot = 1\ntoken = ""\n'))
    assert sorted(line.partition(" ")[0] for line in lines) == ["1:", "2:", "3:", "4:"]
    assert "s3cret" not in "".join(lines)
    monkeypatch.setenv("FABRIC_TOKEN_FILE", str(tmp_path / "none"))
    (line,) = refused(written(tmp_path, ""))
    assert line == f"FABRIC_TOKEN_FILE: {tmp_path}/none cannot be read: No such file or directory"
    monkeypatch.setenv("FABRIC_TOKEN_FILE", str(written(tmp_path, "\n", "empty")))
    assert refused(written(tmp_path, "")) == [f"FABRIC_TOKEN_FILE: {tmp_path}/empty is empty"]


def test_what_nobody_writes_to_is_refused_and_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    there, here = os.openpty()
    try:
        for path, said in (
            (pipe, "it is a pipe, and no file"),
            (Path(os.ttyname(here)), "it is a device that has nothing to say, and no file"),
            (Path("/dev/zero"), "it has more than 1024 KiB"),
        ):
            with pytest.raises(SettingsError, match=f"^{path}: {said}$"):
                gather(path)
    finally:
        os.close(there)
        os.close(here)
    monkeypatch.setenv("FABRIC_TOKEN_FILE", str(pipe))
    (line,) = refused(written(tmp_path, ""))
    assert line == f"FABRIC_TOKEN_FILE: {pipe} cannot be read: it is a pipe, and no file"
    monkeypatch.setenv("FABRIC_TOKEN_FILE", "/dev/zero")
    assert refused(written(tmp_path, "")) == ["FABRIC_TOKEN_FILE: /dev/zero cannot be read: it has more than 64 KiB"]
    monkeypatch.delenv("FABRIC_TOKEN_FILE")
    assert gather(Path(os.devnull)).content == b"", "what goes without a file"


# what changes live


def test_of_a_change_only_what_is_live_is_taken(tmp_path: Path) -> None:
    old = read(written(tmp_path, FILE)).settings
    new = read(
        written(
            tmp_path,
            'log_level = "debug"\nport = 1\n[pools.shop]\ntarget = "x:y"\nprocesses = 5\n[pools.new]\ntarget = "n:n"',
        )
    ).settings
    keys = changed(old, new)
    assert set(keys) == {"log_level", "policy", "port", "pools.shop.target", "pools.shop.processes", "pools.new"}
    assert {key for key in keys if is_live(key)} == {"log_level", "policy", "pools.shop.processes"}
    taken = merged(old, new)
    assert (taken.log_level, taken.policy, taken.port) == ("debug", None, 8420)
    assert taken.pools == {"shop": old.pools["shop"].model_copy(update={"processes": 5})}
    assert set(changed(taken, new)) == {"port", "pools.shop.target", "pools.new"}


def test_a_supervisor_passes_on_what_is_live_in_a_file_and_the_rest_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        'token = "s3cret"\nallowed_hosts = ["a", "b"]\nmax_body = "1MiB"\nanonymous = false\nlimits = "ä\\"\\u007f"\n'
    )
    settings = read(written(tmp_path, text + 'nats_url = "nats://u:s3cret@h"')).settings
    passed, file = fixed(settings, secrets=True), LiveFile(tmp_path, settings)
    for name, value in {**passed, **file.env}.items():
        monkeypatch.setenv(name, value)
    assert flat(load_settings()) == flat(settings)
    assert passed == {
        **fixed(settings, secrets=False),
        "FABRIC_TOKEN": "s3cret",
        "FABRIC_NATS_URL": "nats://u:s3cret@h",
    }
    assert "s3cret" not in (tmp_path / "live.toml").read_text()
    assert (tmp_path / "live.toml").stat().st_mode & 0o777 == 0o600


# for editors


def test_the_schema_takes_what_the_model_takes_and_nothing_else() -> None:
    validator = Draft202012Validator(schema())
    assert validator.is_valid(tomllib.loads(FILE))
    assert validator.is_valid({"max_body": "4MiB", "token": "t"})
    for wrong in ("prot = 1", 'port = "web"', "[pools.shop]\nprocesses = 2", "[env.x]\nprot = 1", "[env.x.env.y]"):
        assert not validator.is_valid(tomllib.loads(wrong)), wrong
    properties = schema()["properties"]
    assert set(properties) == {*Settings.model_fields, "env"}
    assert all(properties[name]["description"] for name in properties)
