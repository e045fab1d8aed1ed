"""Who may do what, asked or not: rules in files, decided by in well under a microsecond.

Above: the gateway, the agents `access` and `approvals`, `fabric policy`. Below: PyYAML, CEL.

    matching   globs and topics (pure)               pages      YAML with places
    condition  CEL on arguments (pure)               files      from YAML to rules
    model      rules and decisions (pure)            keeper     follows the files as they change
    decisions  who may do what (pure)                explain    which rule decided, and why others did not
                                                     cases      tables of cases
"""

from __future__ import annotations

from fabric.policy.decisions import Policy, Standing
from fabric.policy.files import load
from fabric.policy.keeper import PolicyKeeper
from fabric.policy.model import Ask, Asker, Decision, Effect, Facts, Rule, Verb
from fabric.policy.pages import FileError

__all__ = [
    "Ask",
    "Asker",
    "Decision",
    "Effect",
    "Facts",
    "FileError",
    "Policy",
    "PolicyKeeper",
    "Rule",
    "Standing",
    "Verb",
    "load",
]
