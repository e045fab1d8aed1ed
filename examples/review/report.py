"""What a review found, for people: worst files, latency, and which worker did how much.

Above: `driver.py`, `demo.py`. Below: rich. It looks at finished answers only.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

console = Console(highlight=False)
complaints = Console(highlight=False, stderr=True)

LINT: Final = "linter_lint"
MEASURE: Final = "metrics_measure"
_COLOURS: Final = {LINT: "cyan", MEASURE: "magenta"}
_WORST: Final = 12
_COMMONEST: Final = 5
_BAR: Final = 36
_WIDTH: Final = 100


@dataclass(frozen=True, slots=True)
class Answer:
    """How one call ended."""

    tool: str
    path: str
    began: float
    seconds: float
    value: dict[str, Any] | None
    """What the tool returned; `None` if the call failed."""
    problem: str | None
    """Why the call failed."""


@dataclass(frozen=True, slots=True)
class Review:
    """All answers of one review."""

    paths: list[str]
    tools: Sequence[str]
    answers: list[Answer]
    seconds: float
    at_once: int

    @property
    def problems(self) -> list[str]:
        """What is missing: a line for each file that a tool did not review."""
        answered = {(answer.tool, answer.path): answer for answer in self.answers}
        lines: list[str] = []
        for path in self.paths:
            for tool in self.tools:
                answer = answered.get((tool, path))
                if answer is None or answer.value is None:
                    lines.append(f"{path}: {tool}: {answer.problem if answer else 'never called'}")
        return lines


@dataclass(frozen=True, slots=True)
class Kill:
    """The worker that was killed, and when."""

    pid: int
    at: float


@dataclass(frozen=True, slots=True)
class _File:
    """One file's numbers, side by side."""

    path: str
    findings: int
    complexity: int
    function: str
    nesting: int
    lines: int


def show(review: Review, kill: Kill | None = None) -> bool:
    """Print it all; returns whether every file was reviewed by every tool."""
    files = _files(review)
    _show_worst(files)
    _show_totals(review, files)
    _show_latency(review.answers)
    _show_spread(review.answers, kill)
    return _show_verdict(review, kill)


# what was found


def _files(review: Review) -> list[_File]:
    values = {(answer.tool, answer.path): answer.value for answer in review.answers if answer.value is not None}
    found: list[_File] = []
    for path in review.paths:
        lint, measured = values.get((LINT, path)), values.get((MEASURE, path))
        if lint is not None and measured is not None:
            numbers = measured["measures"]
            worst: dict[str, Any] = numbers["most_complex"] or {"complexity": 0, "name": ""}
            found.append(
                _File(
                    path,
                    len(lint["findings"]),
                    worst["complexity"],
                    worst["name"],
                    numbers["nesting"],
                    numbers["lines"],
                )
            )
    return found


def _show_worst(files: list[_File]) -> None:
    """The files that stand high in all three lists at once."""
    scores = [
        sum(each) / 3
        for each in zip(
            _standing([file.findings for file in files]),
            _standing([file.complexity for file in files]),
            _standing([file.lines for file in files]),
            strict=True,
        )
    ]
    ranked = sorted(zip(scores, files, strict=True), key=lambda pair: (-pair[0], pair[1].path))[:_WORST]
    table = Table(box=None, pad_edge=False, header_style="bold", width=min(console.width, _WIDTH))
    table.add_column("", justify="right", style="dim")
    table.add_column("FILE", overflow="ellipsis", no_wrap=True, ratio=3)
    for number in ("SCORE", "FINDINGS", "LINES", "NESTING"):
        table.add_column(number, justify="right", min_width=len(number))
    table.add_column("COMPLEXITY", overflow="ellipsis", no_wrap=True, ratio=2)
    for rank, (score, file) in enumerate(ranked, start=1):
        numbers = (f"{score:.1f}", str(file.findings), f"{file.lines:,}", str(file.nesting))
        complexity = f"{file.complexity:3} [dim]{escape(file.function)}[/]"
        table.add_row(str(rank), escape(file.path), *numbers, complexity)
    _heading("Worst files first")
    console.print(table)
    console.print(
        "[dim]Score: the percentage of files that have less, averaged over findings, lines and complexity,\n"
        "which is that of the file's most complex function.[/]",
        soft_wrap=True,
    )


def _standing(values: list[int]) -> list[float]:
    """For each value, the percentage of all values that are smaller."""
    ordered = sorted(values)
    return [100 * bisect_left(ordered, value) / max(1, len(values) - 1) for value in values]


def _show_totals(review: Review, files: list[_File]) -> None:
    rules: Counter[str] = Counter()
    messages: dict[str, str] = {}
    for answer in review.answers:
        if answer.tool == LINT and answer.value is not None:
            for finding in answer.value["findings"]:
                rules[finding["rule"]] += 1
                messages.setdefault(finding["rule"], finding["message"])
    measured = [answer.value["measures"] for answer in review.answers if answer.tool == MEASURE and answer.value]
    broken = sum(numbers["broken"] is not None for numbers in measured)
    lines, functions = sum(file.lines for file in files), sum(numbers["functions"] for numbers in measured)
    _heading("All files")
    console.print(
        f"{len(files):,} files, {lines:,} lines, {functions:,} functions, {rules.total():,} findings"
        + (f", {broken} with syntax errors" if broken else "")
    )
    for rule, times in rules.most_common(_COMMONEST):
        console.print(
            f"[dim]{times:6,}[/] {rule:8} [dim]such as:[/] {escape(messages[rule])}", overflow="ellipsis", no_wrap=True
        )


# how it went


_BOUNDS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def _show_latency(answers: list[Answer]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("LATENCY")
    for name in ("CALLS", "FAILED", "P50", "P95", "P99", "MAX"):
        table.add_column(name, justify="right")
    for tool, colour in _COLOURS.items():
        mine = [answer for answer in answers if answer.tool == tool]
        times = sorted(answer.seconds for answer in mine)
        failed = sum(answer.value is None for answer in mine)
        marks = [_duration(_percentile(times, share)) for share in (0.5, 0.95, 0.99, 1.0)]
        table.add_row(f"[{colour}]█[/] {tool}", f"{len(mine):,}", str(failed), *marks)
    console.print()
    console.print(table)
    console.print()
    _show_histogram(answers)


def _show_histogram(answers: list[Answer]) -> None:
    """Bars of calls by their latency, each bar in the colours of the tools."""
    counts = [Counter[str]() for _ in range(len(_BOUNDS) + 1)]
    for answer in answers:
        counts[bisect_right(_BOUNDS, answer.seconds)][answer.tool] += 1
    used = [at for at, tools in enumerate(counts) if tools]
    if not used:
        return
    longest = max(tools.total() for tools in counts)
    for at in range(used[0], used[-1] + 1):
        line = Text(f"{_range(at):>16}  ")
        for tool, colour in _COLOURS.items():
            line.append(_bar(counts[at][tool], longest), style=colour)
        console.print(line.append(f" {counts[at].total() or ''}", style="dim"))


def _show_spread(answers: list[Answer], kill: Kill | None) -> None:
    done: Counter[tuple[str, int]] = Counter()
    first: dict[int, float] = {}
    for answer in answers:
        if answer.value is not None:
            who = answer.value["reviewer"]
            done[who["agent"], who["pid"]] += 1
            first[who["pid"]] = min(first.get(who["pid"], answer.began), answer.began)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("WORKER")
    table.add_column("PID", justify="right")
    table.add_column("ANSWERS", justify="right")
    table.add_column("")
    longest = max(done.values(), default=1)
    for (agent, pid), times in sorted(done.items(), key=lambda each: (each[0][0], first[each[0][1]])):
        note = " [red]killed half-way[/]" if kill and kill.pid == pid else ""
        table.add_row(agent, str(pid), f"{times:,}", f"[green]{_bar(times, longest)}[/]{note}")
    console.print()
    console.print(table)


def _show_verdict(review: Review, kill: Kill | None) -> bool:
    calls, problems = len(review.answers), review.problems
    rate = calls / review.seconds if review.seconds else 0.0
    console.print(
        f"\n[bold]{calls:,}[/] calls in {review.seconds:.1f} s, {review.at_once} at once: {rate:.0f} calls/s. "
        "[dim]Each read its source from the agent reader.[/]",
        soft_wrap=True,
    )
    if kill is not None:
        console.print(_loss(review.answers, kill), soft_wrap=True)
    if not problems:
        console.print(f"[bold green]All {len(review.paths):,} files were linted and measured; no call failed.[/]")
        return True
    console.print(f"[bold red]{len(problems)} reviews are missing:[/]")
    for line in problems:
        console.print(f"  {escape(line)}", soft_wrap=True)
    return False


def _loss(answers: list[Answer], kill: Kill) -> str:
    """What became of the calls that were under way when the worker was killed."""
    under_way = [a for a in answers if a.tool == LINT and a.began < kill.at < a.began + a.seconds]
    if not under_way:
        return f"When linter {kill.pid} was killed, no lint call was under way."
    answered = sum(answer.value is not None for answer in under_way)
    longest = max(answer.began + answer.seconds - kill.at for answer in under_way)
    all_or_some = "all" if answered == len(under_way) else f"only {answered}"
    return (
        f"When linter {kill.pid} was killed, {len(under_way)} lint calls were under way: {all_or_some} were answered, "
        f"the last {longest:.1f} s later.\n"
        "[dim]What a dead worker had in hand goes to another one, once it has been silent for long enough.[/]"
    )


# drawing


def _heading(text: str) -> None:
    console.print(f"\n[bold]{text}[/]")


def _percentile(ordered: list[float], share: float) -> float:
    """The smallest value that at least `share` of all values do not exceed."""
    if not ordered:
        return 0.0
    return ordered[ceil(share * len(ordered)) - 1]


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _range(at: int) -> str:
    if at == 0:
        return f"under {_bound(_BOUNDS[0])}"
    if at == len(_BOUNDS):
        return f"over {_bound(_BOUNDS[-1])}"
    return f"{_bound(_BOUNDS[at - 1])} to {_bound(_BOUNDS[at])}"


def _bound(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.0f} s"


def _bar(value: int, longest: int) -> str:
    """A bar for `value`; never nothing for something."""
    eighths = round(8 * _BAR * value / longest)
    full, rest = divmod(max(eighths, 1 if value else 0), 8)
    return "█" * full + " ▏▎▍▌▋▊▉"[rest].strip()
