"""`fabric policy`: check the rules, try them on a table of cases, ask why they decide as they do.

Above: `main`. Below: `fabric.policy`; nothing has to run for it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from fabric.cli.console import Exit, err, fail, out, print_json, seen, table
from fabric.cli.options import JsonOption
from fabric.policy.cases import SOMEBODY, Somebody, checked_act, load_cases
from fabric.policy.decisions import Policy
from fabric.policy.explain import explain as explained
from fabric.policy.files import DEFAULT, load
from fabric.settings import load_settings
from fabric_sdk.contracts.errors import ConfigurationError

app = typer.Typer(name="policy", help="Who may do what: check, try and explain the rules.", no_args_is_help=True)

PolicyOption = Annotated[
    Path | None,
    typer.Option("--policy", help="A file, or a folder of *.yaml. [FABRIC_POLICY; without it, the built-in policy]"),
]


@app.command()
def check(
    path: Annotated[Path | None, typer.Argument(help="A file, or a folder of *.yaml. [as --policy]")] = None,
    json_output: JsonOption = False,
) -> None:
    """Find every mistake in a policy."""
    where, policy = _loaded(path)
    if json_output:
        print_json({"policy": str(where), "rules": [rule.name for rule in policy.rules]})
    else:
        out.print(f"{escape(seen(str(where)))}: {len(policy.rules)} rules, no mistake", soft_wrap=True)


@app.command("test")
def try_(
    cases: Annotated[Path, typer.Argument(help="A file of cases, or a folder of *.yaml.")],
    policy: PolicyOption = None,
    json_output: JsonOption = False,
) -> None:
    """Try a policy on a table of cases."""
    _, tried = _loaded(policy)
    try:
        rows = load_cases(cases)
    except ConfigurationError as wrong:
        fail(wrong)
    failures = [failure for case in rows if (failure := case.failure(tried)) is not None]
    if json_output:
        print_json({"cases": len(rows), "failures": failures})
    else:
        for failure in failures:
            err.print(f"[bold red]failed:[/] {escape(seen(failure))}", soft_wrap=True)
        out.print(f"{len(rows) - len(failures)} of {len(rows)} cases are as expected")
    if failures:
        raise typer.Exit(int(Exit.FAILED))


@app.command()
def explain(
    verb: Annotated[str, typer.Argument(help="call, read, prompt, publish or subscribe.")],
    target: Annotated[str, typer.Argument(metavar="AGENT/NAME|TOPIC", help="A tool, URI or prompt; or a topic.")],
    arguments: Annotated[str, typer.Option("--arguments", help="Of the call, or an event's data: JSON.")] = "{}",
    policy: PolicyOption = None,
    role: Annotated[list[str] | None, typer.Option("--role", help="Of who asks; more than once for more.")] = None,
    scope: Annotated[list[str] | None, typer.Option("--scope", help="Of the token; more than once for more.")] = None,
    principal: Annotated[str, typer.Option("--principal", help="Who asks.")] = SOMEBODY,
    agent: Annotated[str | None, typer.Option("--agent", help="Which agent's token it is.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Say what a policy decides, by which rule, and what became of the others."""
    _, asked = _loaded(policy)
    who = Somebody(principal, agent, frozenset(role or ()), frozenset(scope or ()))
    try:
        found = explained(asked, who, checked_act(verb, target), _json(arguments))
    except ConfigurationError as wrong:
        fail(wrong)
    if json_output:
        print_json(found.told())
        return
    out.print(f"[bold]{found.decision.effect}[/] {escape(seen(found.why))}", soft_wrap=True)
    about = [each for each in found.findings if each.outcome != "is about something else"]
    if about:
        table(
            ("RULE", "THEN", "OUTCOME", "WHY"),
            [(each.rule.name, each.rule.effect, each.outcome, each.why) for each in about],
        )
    if others := len(found.findings) - len(about):
        err.print(f"[dim]{others} other {'rule is' if others == 1 else 'rules are'} not about this[/]")


def _loaded(path: Path | None) -> tuple[Path, Policy]:
    try:
        where = path or load_settings().policy or DEFAULT
        return where, load(where)
    except ConfigurationError as wrong:
        fail(wrong)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise ConfigurationError("the arguments are not JSON", fix='write them like \'{"name": "value"}\'') from None
