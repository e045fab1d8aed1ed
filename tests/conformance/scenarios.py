"""Which scenarios of the public suite this project promises, for each revision of the protocol.

The suite's own required sets are larger. A scenario moves in here when the gateway can pass it, and never moves out.
"""

MODERN = "2026-07-28"
HANDSHAKE = "2025-11-25"

_TOOL_CALLS = (
    "tools-list",
    "tools-call-simple-text",
    "tools-call-image",
    "tools-call-audio",
    "tools-call-embedded-resource",
    "tools-call-mixed-content",
    "tools-call-error",
    "tools-call-with-progress",
)

_TASKS = (
    "tasks-lifecycle",
    "tasks-capability-negotiation",
    "tasks-dispatch-and-envelope",
    "tasks-mrtr-composition",
    "tasks-mrtr-input",
    "tasks-request-headers",
    "tasks-request-state-removal",
    "tasks-required-task-error",
    "tasks-wire-fields",
)
"""All of the tasks extension, but for `tasks-status-notifications`, which checks nothing yet."""

PROMISED: dict[str, tuple[str, ...]] = {
    MODERN: ("server-stateless", "http-header-validation", "dns-rebinding-protection", *_TOOL_CALLS, *_TASKS),
    HANDSHAKE: (
        "server-initialize",
        "ping",
        "dns-rebinding-protection",
        *_TOOL_CALLS,
        "tools-call-with-logging",
    ),
}
