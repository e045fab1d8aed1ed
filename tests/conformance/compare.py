"""Runs the same scenarios against the gateway and against the control, and shows where they differ. By hand:

    python -m conformance.compare                  all scenarios, on the control alone
    python -m conformance.compare URL              ... on URL and on the control, side by side
    python -m conformance.compare URL --verbose    with the words of every check that is not right

(from tests/, or with tests/ on PYTHONPATH). Exit code 1 when something is wrong at URL that is right at the control.
"""

import argparse
import sys

from conformance.runner import Scenario, run
from conformance.scenarios import LEGS
from conformance.serve_direct import running

Reports = dict[str, Scenario]


def count(scenario: Scenario | None) -> str:
    """Passed of checked, as `30/30`."""
    if scenario is None:
        return "-"
    judged = [check for check in scenario.checks if check.status in ("SUCCESS", "FAILURE", "WARNING")]
    return f"{len(judged) - len(scenario.wrong)}/{len(judged)}"


def show(revision: str, control: Reports, subject: Reports, *, verbose: bool) -> bool:
    """Prints one revision's table; True when the subject has a scenario wrong that the control has right."""
    worse = False
    print(f"\n{revision:<48}{'control':>9}{'subject':>9}")
    for name in control | subject:
        here, there = control.get(name), subject.get(name)
        differs = there is not None and bool(there.wrong) and not (here and here.wrong)
        print(f"  {name:<46}{count(here):>9}{count(there):>9}{'  <--' if differs else ''}")
        if verbose:
            for check in (there or here or Scenario(name, ())).wrong:
                print(f"      {check}")
        worse = worse or differs
    return worse


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("url", nargs="?", help="the gateway's MCP endpoint; use localhost as the host name")
    parser.add_argument("--verbose", action="store_true", help="say what is wrong")
    arguments = parser.parse_args()
    worse = False
    with running() as control_url:
        for revision, choice in LEGS.items():
            control = run(control_url, choice)
            subject = run(arguments.url, choice) if arguments.url else {}
            worse = show(revision, control, subject, verbose=arguments.verbose) or worse
    sys.exit(1 if worse else 0)


if __name__ == "__main__":
    main()
