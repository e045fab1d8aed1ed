"""Policy files: each mistake is told with its line and column, all at once, and no file can do harm.

Proves: SE-2, SE-6
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from policy.written import decide, mistakes, policy, rule, said, source

from fabric.policy import FileError, load
from fabric.policy.cases import Somebody
from fabric.policy.files import MOST_ROLES, parse
from fabric.policy.pages import MOST_BYTES, MOST_FILES, Source
from fabric_sdk.contracts.errors import ConfigurationError

WRONG = """\
roles:
  clerk: [ghost]
  a: [b]
  b: [a]
  clerk: []
rules:
  - name: one
    roles: [clerk, boss]
    verbs: [call, publish, eat]
    on: [shop/refund, "orders.>x", Shop/x]
    when: arguments.amount >
    then: allow
    color: red
  - name: one
    roles: []
    on: shop/x
    when: "argument.x == 1"
    then: maybe
  - on: [shop/x]
    principals: ["*"]
    when: |
      arguments.a &&
      (
    then: ask
    self: 3
    expires: soon
  - just text
  - {name: x, then: deny, approvers: [clerk], on: [a/b]}
  - {name: y, then: allow, on: [a/b, topic], verbs: [call], agents: [1]}
  - {name: z z, then: allow, on: [a/b], verbs: [publish], agents: [x], when: yes}
  - {name: e, then: allow, on: [a/b], verbs: [], agents: [""], when: ""}
"""
TOLD = """\
2:11: there is no role 'ghost'; add it under `roles`; there are clerk, a, b
3:3: role 'a' includes itself, by way of others or not; break the circle
4:3: role 'b' includes itself, by way of others or not; break the circle
5:3: 'clerk' stands here twice; leave one out
8:20: there is no role 'boss'; add it under `roles`; there are clerk, a, b
9:28: there is no 'eat' here; there are call, read, prompt, publish, subscribe
10:23: 'orders.>x' is neither <agent>/<name> nor a topic; write words and dots; `*` stands for a word, `>` for the rest
10:36: 'Shop/x' names nothing of an agent; write <agent>/<name>, like shop/refund or shop/*
11:29: mismatched input '<EOF>'; write CEL, like arguments.amount > 100
13:5: there is no 'color' here; there are name, roles, scopes, principals, agents, verbs, on, when, then, approvers, \
self, expires
14:11: rule 'one' stands at p.yaml:7, too; give each rule a name of its own
15:12: the list is empty, so nothing fits; name something, or leave the list out
16:9: this is text; write a list, like [this, that]
17:12: there is no 'argument' here; there are arguments, principal, roles, agent, tool
18:11: there is no 'maybe' here; there are deny, ask, allow
19:5: 'approvers' is missing, so nobody could say yes; add the roles that may
19:5: 'name' is missing; add it
21:11: mismatched input '<EOF>' (line 3, column 1 of the condition); write CEL, like arguments.amount > 100
25:11: this is a number; write true or false
26:14: 'soon' is no duration; write 90s, 10m, 2h or 7d
27:5: this is text; write a mapping, of names and what each is
28:5: the rule speaks of nobody; add roles, scopes, principals, agents, or principals: ["*"] for everybody
28:27: 'approvers' means something only where a person is asked; leave it out, or write then: ask
29:38: no verb of the rule can be done to 'topic'; add a verb, or leave it out
29:70: this is a number; write text; in quotes, if it looks like something else
30:12: 'z z' cannot name a rule; use letters, digits, hyphens, underscores
30:35: no verb of the rule can be done to 'a/b'; add a verb, or leave it out
30:49: the rule names nothing to publish; add topics to `on`, or leave publish out
30:78: this is true or false; write text; in quotes, if it looks like something else
31:46: the list is empty, so nothing fits; name something, or leave the list out
31:59: nothing stands here; write text
31:70: nothing stands here; write text
"""
GOOD = "rules: [{name: r, principals: ['*'], on: ['*/*'], then: allow}]"


def test_every_mistake_is_told_with_its_place_and_its_fix() -> None:
    assert mistakes(WRONG) == TOLD.splitlines()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "1:1: there is no rule, so nobody could do anything"),
        ("roles: {a: []}", "1:1: there is no rule, so nobody could do anything"),
        ("rules: {}", "1:8: this is a mapping; write a list"),
        ("[]", "1:1: this is a list; write a mapping"),
        ("rules:\n  - {", "3:1: this is no YAML: did not find expected node content"),
        ("rules: []\n---\nrules: []", "2:1: this is no YAML: but found another document"),
        ("rules:\n  - \x01", "2:5: this character is not allowed in YAML"),
        ("# é\nrules:\n  - é\x00", "3:6: this character is not allowed in YAML"),
        (b"# \xc3\xa9\nrules: \xff", "2:8: this is not UTF-8"),
        ("a: &a [x]\nrules: *a", "2:8: an alias is used; write it out"),
        ("a: &a [*a]", "1:8: an alias is used; write it out"),
        ("{" * 100_000, "1:34: this is nested too deep"),
        ("- " * 100_000, "1:67: this is nested too deep"),
        ("#" * (MOST_BYTES + 1), "1:1: the file has more than 256 KiB"),
        ("rules: !!python/object/apply:os.system [ls]\n", "1:41: this is text; write a mapping"),
        ("{'': 1, [a]: 2, rules: []}", "1:2: this is no name"),
        ("{'': 1, [a]: 2, rules: []}", "1:9: this is no name"),
        ("rules: [!!str [x]]", "1:9: this is a list; write a mapping"),
        (GOOD.replace("*/*", "*"), "1:43: '*' is a topic of one word, and no tool; write"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_policy_is_refused_at_its_place(text: str | bytes, told: str) -> None:
    found = mistakes(text)
    assert any(each.startswith(told) for each in found), found


@settings(deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200))
@example("rules: [{name: !!int x, on: !!float [], then: {}}]")
@example("rules: [{? [a] : b}]")
def test_whatever_a_file_has_in_it_is_no_crash(content: str | bytes) -> None:
    assert mistakes(content)


def test_a_role_includes_what_its_roles_include() -> None:
    roles = {"a": ["b"], "b": ["c", "d"], "c": [], "d": []}
    held = policy(rule("r", "allow", roles=["d"]), roles=roles)
    assert held.roles(frozenset(("a", "stranger"))) == {"a", "b", "c", "d"}
    for role, effect in {"a": "allow", "b": "allow", "c": "deny", "d": "allow", "stranger": "deny"}.items():
        assert decide(held, Somebody(roles=frozenset((role,))), "call shop/pay").effect == effect


def test_roles_are_no_more_than_can_be_closed() -> None:
    chain = "".join(f"  r{number}: [r{number + 1}]\n" for number in range(MOST_ROLES))
    text = f"roles:\n{chain}  r{MOST_ROLES}: []\n{GOOD}"
    assert mistakes(text) == [f"{MOST_ROLES + 2}:3: there are more than 1000 roles; let some roles be one"]
    assert mistakes(text.replace("  r0: [r1]\n", "")) == []


def test_all_files_of_a_folder_are_one_policy(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("roles: {clerk: [seller]}\n" + GOOD.replace("name: r", "name: s"))
    (tmp_path / "a.yaml").write_text("roles: {seller: []}\n" + GOOD.replace("principals: ['*']", "roles: [clerk]"))
    (tmp_path / "notes.txt").write_text("no policy")
    assert [rule.name for rule in load(tmp_path).rules] == ["r", "s"]
    (tmp_path / "c.yaml").write_text("roles: {seller: []}\n" + GOOD)
    with pytest.raises(FileError) as raised:
        load(tmp_path)
    first, second = raised.value.mistakes
    assert (first.file, first.line, first.column) == (str(tmp_path / "c.yaml"), 1, 9)
    assert f"role 'seller' stands at {tmp_path}/a.yaml:1, too" in first.what
    assert f"rule 'r' stands at {tmp_path}/a.yaml:2, too" in second.what


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        load(tmp_path / "none.yaml")
    with pytest.raises(ConfigurationError, match=r"has no \*\.yaml"):
        load(tmp_path)
    for number in range(MOST_FILES + 1):
        (tmp_path / f"{number}.yaml").write_text(GOOD)
    with pytest.raises(ConfigurationError, match=f"more than {MOST_FILES} files"):
        load(tmp_path)


def test_a_pipe_that_nobody_writes_to_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "policy.yaml")
    for path in (pipe, tmp_path):
        with pytest.raises(ConfigurationError, match="it is a pipe"):
            load(path)


def test_a_file_without_end_is_not_read_to_its_end() -> None:
    with pytest.raises(FileError, match="more than 256 KiB"):
        load(Path("/dev/zero"))


def test_one_who_asks_for_a_person_says_whom_and_for_how_long() -> None:
    asks = rule("r", "ask", approvers=["clerk"], expires="90s") | {"self": True}
    (asking,) = policy(asks).rules
    assert asking.ask is not None
    assert (asking.ask.approvers, asking.ask.by_asker, asking.ask.seconds) == ({"clerk"}, True, 90.0)
    (plain,) = policy(rule("r", "ask")).rules
    assert plain.ask is not None
    assert (plain.ask.by_asker, plain.ask.seconds) == (False, 3600.0)


def test_the_built_in_policy_lets_admins_and_agents_work_and_nobody_else() -> None:
    built_in = load()
    admin, agent = Somebody(roles=frozenset(("admin",))), Somebody("agent:shop", agent="shop")
    for does in ("call shop/pay", "read docs/file:///x", "prompt a/b", "call durable/purge_dead"):
        assert said(decide(built_in, admin, does)) == ("allow", "admins", ())
        assert said(decide(built_in, agent, does)) == ("allow", "agents-use-what-is-mounted", ())
        assert said(decide(built_in, Somebody(), does)) == ("deny", None, ())
    for does in ("publish orders.new", "subscribe >"):
        assert [decide(built_in, who, does).effect for who in (admin, agent, Somebody())] == ["allow", "deny", "deny"]


def test_a_name_is_what_is_written_even_where_yaml_knows_better() -> None:
    text = "roles: {yes: [], 1: []}\nrules: [{name: r, roles: ['yes', '1'], on: ['*/*'], then: allow}]"
    assert len(parse([Source("p", text.encode())]).rules) == 1
    assert len(parse([source({"rules": [rule("r", "deny")]})]).rules) == 1
