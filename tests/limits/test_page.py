"""docs/limits.md says what the code does: its sample is read, its numbers are those of the code.

Proves: GW-8 (limits for each client, tool and agent).
"""

from __future__ import annotations

from docs.pages import blocks, codes, read, table

from fabric.limits import limiter, rules, sharing, spending

PAGE = read("docs/limits.md")
WORDS = " ".join(PAGE.split())


def test_the_sample_is_read_and_shows_everything_that_there_is() -> None:
    (sample,) = blocks(PAGE, "yaml")
    limits = rules.parse(sample, "docs/limits.md")
    assert [rule.name for rule in limits.rules] == ["each-client", "reports", "printer"]
    listed = [name for row in table(PAGE, "in a limit", "what it is") for name in codes(row["in a limit"])]
    assert all(f"{name}:" in sample for name in listed)
    assert limits.lockout == rules.read().lockout, "what comes with the fabric"


def test_the_numbers_are_those_of_the_code() -> None:
    assert rules.read().rules == ()
    assert "the file that comes with the fabric holds: no limit, lock-out on" in WORDS
    assert f"Every {sharing.INTERVAL} seconds" in WORDS
    assert f"{limiter.MOST_BUCKETS:,} at most" in WORDS
    assert f"It tells of {spending.MOST_TOLD} changed buckets" in WORDS
    assert spending.LONGEST == 1.0
    assert "everybody for one second" in WORDS
    assert 100 * 60 + 3 * (50 + 100 * (sharing.INTERVAL + 0.05)) == 6225
    assert "at most 6225 calls" in WORDS
