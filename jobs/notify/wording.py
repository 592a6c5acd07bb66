"""What a message about a job says, in the forms that its readers take. Pure.

Used by `courier`. The texts hold what `eagleray job status` shows: secrets were masked before they came into the
history.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.message import EmailMessage
from typing import Any

from eagleray.cluster.clock import iso
from eagleray.jobs.notify.outbox import Message

_SAID = {
    "failed": "failed for",
    "late": "is late for",
    "recovered": "works again, for",
    "succeeded": "succeeded for",
}
REASON_MAX = 2_000


def document(message: Message, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a webhook gets, as JSON; times in ISO 8601, UTC."""
    found: dict[str, Any] = {
        "event": message.event,
        "job": message.job,
        "period": message.period,
        "at": iso(message.created_us),
        "key": message.key,
    }
    if message.run:
        found["run"] = message.run
    for name in ("output", "state", "attempts", "rows"):
        if facts.get(name) is not None:
            found[name] = facts[name]
    for name in ("started", "ended"):
        if facts.get(f"{name}_us"):
            found[name] = iso(facts[f"{name}_us"])
    if facts.get("reason"):
        found["reason"] = str(facts["reason"])[:REASON_MAX]
    return found


def headline(message: Message) -> str:
    """One line."""
    return f"job {message.job} {_SAID[message.event]} {message.period}"


def text(message: Message, facts: Mapping[str, Any]) -> str:
    """A few lines, for people."""
    lines = [headline(message)]
    if facts.get("reason") and message.event == "failed":
        lines.append(str(facts["reason"])[:REASON_MAX])
    if facts.get("rows") is not None:
        lines.append(f"{facts['rows']:,} rows in {facts['output']}")
    if message.event == "late":
        lines.append(f"it was not done within its sla; see `eagleray job show {message.job}`")
    if message.run:
        lines.append(f"see `eagleray job status {message.run}`")
    return "\n".join(lines)


def slack(message: Message, facts: Mapping[str, Any]) -> dict[str, str]:
    """Slack's form. The three signs that mean something there are escaped."""
    said = text(message, facts)
    for sign, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        said = said.replace(sign, escaped)
    return {"text": said}


def mail(message: Message, facts: Mapping[str, Any], sender: str, to: tuple[str, ...]) -> EmailMessage:
    """A mail; a repetition has the same Message-ID."""
    found = EmailMessage()
    found["Subject"] = f"[eagleray] {headline(message)}"
    found["From"], found["To"] = sender, ", ".join(to)
    found["Message-ID"] = f"<{message.key.replace('/', '.')}@eagleray>"
    found.set_content(text(message, facts) + "\n")
    return found
