"""`fabric approvals`: calls that a person has to allow first.

Above: `main`. Below: the agent `approvals`, to which whoever is on this command line counts as the operator.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fabric.approvals.model import State
from fabric.cli.connection import answer
from fabric.cli.console import err, facts, out, print_json, run, seen, table
from fabric.cli.options import DataOption, JsonOption
from fabric.cli.times import full, since

app = typer.Typer(name="approvals", help="Calls that a person has to allow first.", no_args_is_help=True)

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="Of the approval.")]


@app.command("list")
def list_(
    state: Annotated[State, typer.Option("--state", help="Those in this state.")] = "waiting",
    everything: Annotated[bool, typer.Option("--all", help="Those in any state; they are kept for a day.")] = False,
    limit: Annotated[int, typer.Option(help="At most so many, the newest.", min=1, max=1000)] = 100,
    json_output: JsonOption = False,
    data: DataOption = None,
) -> None:
    """List what waits for a person; who asked first comes first."""
    found = run(answer(data, "approvals", "list_approvals", state=None if everything else state, limit=limit))
    if json_output:
        print_json(found)
        return
    rows = [
        (each["id"], each["state"], f"{each['agent']}/{each['name']}", each["principal"], since(each["expires"]))
        for each in found
    ]
    table(("ID", "STATE", "WANTS", "WHO", "EXPIRES"), rows)
    if not rows:
        err.print("[dim]Nothing here; --all lists what was decided, too.[/]")


@app.command()
def show(approval_id: IdArgument, json_output: JsonOption = False, data: DataOption = None) -> None:
    """Show an approval: who asks for what with which arguments, and how it stands."""
    found = run(answer(data, "approvals", "show_approval", id=approval_id))
    if json_output:
        print_json(found)
        return
    cut = "" if found["whole"] else f"… cut off: `fabric task show {found['task']}` has all"
    facts(
        [
            ("approval", found["id"]),
            ("state", found["state"]),
            ("who asks", found["principal"]),
            ("wants", f"{found['method']} {found['agent']}/{found['name']}"),
            ("arguments", found["arguments"] + cut),
            ("task", found["task"]),
            ("rule", found["rule"]),
            ("approvers", " ".join(found["approvers"]) + (", or who asks" if found["by_asker"] else "")),
            ("asked", full(found["asked"])),
            ("expires", full(found["expires"])),
            ("answered", full(found["decided"])),
            ("by", found["by"]),
            ("reason", found["reason"]),
        ]
    )


@app.command()
def grant(
    approval_id: IdArgument,
    remember: Annotated[bool, typer.Option("--remember", help="All such calls of whoever asked, for 30 days.")] = False,
    json_output: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Allow a call; it goes on at once."""
    granted = run(answer(data, "approvals", "grant", id=approval_id, remember=remember))
    if json_output:
        print_json(granted)
    else:
        how = ", and all such calls for 30 days" if granted["remember"] else ""
        out.print(f"granted {_act(granted)}{how}", markup=False, soft_wrap=True)


@app.command()
def refuse(
    approval_id: IdArgument,
    reason: Annotated[str, typer.Argument(help="For whoever asked.")] = "",
    json_output: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Refuse a call; whoever waits for it is told why."""
    refused = run(answer(data, "approvals", "refuse", id=approval_id, reason=reason))
    if json_output:
        print_json(refused)
    else:
        out.print(f"refused {_act(refused)}", markup=False, soft_wrap=True)


@app.command()
def grants(json_output: JsonOption = False, data: DataOption = None) -> None:
    """List what was granted for longer."""
    found = run(answer(data, "approvals", "list_grants"))
    if json_output:
        print_json(found)
        return
    rows = [(each["id"], _act(each), each["rule"], each["by"], since(each["expires"])) for each in found]
    table(("ID", "ALLOWS", "RULE", "BY", "EXPIRES"), rows)
    if not rows:
        err.print("[dim]Nothing is granted for longer: `fabric approvals grant ID --remember` does.[/]")


@app.command()
def revoke(
    grant_id: Annotated[str, typer.Argument(metavar="ID", help="Of the grant.")],
    json_output: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Have a person asked again for what was granted for longer."""
    revoked = run(answer(data, "approvals", "revoke_grant", id=grant_id))
    if json_output:
        print_json(revoked)
    else:
        out.print(f"revoked {_act(revoked)}", markup=False, soft_wrap=True)


def _act(of: dict[str, Any]) -> str:
    return seen(f"{of['agent']}/{of['name']} for {of['principal']}")
