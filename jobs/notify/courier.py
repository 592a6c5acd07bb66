"""Delivers the messages of the outbox, in a thread of its own. Started by the scheduler and by `eagleray job run`.

Promise: it never raises into a run and holds none up; what cannot be delivered is tried again with growing pauses,
and then stays in the outbox with the error. Several couriers may work on one outbox.
"""

from __future__ import annotations

import json
import logging
import smtplib
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from eagleray.cluster.client.http import RETRIED, Client, Unreachable
from eagleray.cluster.clock import Clock
from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.masking import Mask
from eagleray.cluster.sections import EmailConfig, WebhookConfig
from eagleray.jobs.model import Job
from eagleray.jobs.notify import wording
from eagleray.jobs.notify.outbox import LINEAGE, Message, Outbox
from eagleray.jobs.run.run_state import Progress

logger = logging.getLogger(__name__)

TIMEOUT_S = 10.0  # of one delivery
IDLE_S = 5.0
CLOSE_S = 5.0  # that the end of a command waits for its messages


class Undeliverable(Exception):
    """A message was refused, and would be again."""


class Courier:
    """Delivers from the start on; nothing where nobody is to be told."""

    def __init__(self, config: Config, outbox: Outbox, clock: Clock) -> None:
        """`outbox` is asked from the courier's own thread."""
        self._config = config
        self._outbox = outbox
        self._clock = clock
        self._by_name = {one.name: one for one in config.jobs.notify}
        self._wake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None
        if outbox.used:
            self._thread = threading.Thread(target=self._work, name="courier", daemon=True)
            self._thread.start()

    def started(self, run: str, rows: Sequence[Progress]) -> None:
        """Attempts of these nodes begin."""
        self._note(lambda: self._outbox.started(run, rows, self._clock.now_us()))

    def ended(self, run: str, rows: Sequence[Progress]) -> None:
        """These nodes have ended for good."""
        self._note(lambda: self._outbox.ended(run, rows, self._clock.now_us()))

    def late(self, job: Job, period: str) -> None:
        """The period was not done within the job's `sla`; told once."""

        def note() -> None:
            if self._outbox.late(job, period, self._clock.now_us()):
                logger.error("job %s is late for %s: not done within its sla", job.name, period)

        self._note(note)

    def _note(self, write: Callable[[], None]) -> None:
        try:
            write()
        except Exception:
            logger.exception("a message about a job could not be written down")
        self._wake.set()

    def close(self, wait_s: float = CLOSE_S) -> None:
        """Deliver what is due, for `wait_s` at most, and stop; what is left waits in the outbox."""
        self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(wait_s)

    def _work(self) -> None:
        while True:
            last = self._closed
            try:
                while taken := self._outbox.take(self._clock.now_us()):
                    for message in taken:
                        self._deliver(message)
            except Exception:
                logger.exception("messages about jobs could not be looked at; trying again")
            if last:
                return
            self._wake.wait(IDLE_S)
            self._wake.clear()

    def _deliver(self, message: Message) -> None:
        """One try; whatever happens is written down."""
        again = True
        try:
            self._send(message)
        except (Undeliverable, ConfigError) as error:
            again, said = isinstance(error, ConfigError), str(error)
        except Exception as error:
            said = f"{type(error).__name__}: {error}" if not isinstance(error, Unreachable) else str(error)
        else:
            self._outbox.sent(message)
            return
        said = Mask(self._config.secret_values())(said)
        logger.warning("%s could not be told that %s (try %d): %s", message.target, message.key, message.attempts, said)
        self._outbox.failed(message, said, self._clock.now_us(), again)

    def _send(self, message: Message) -> None:
        facts = self._outbox.facts(message)
        if message.target == LINEAGE:
            from eagleray.jobs.notify.lineage import emit

            emit(self._config, message, facts)
            return
        target = self._by_name.get(message.target)
        if target is None:
            raise Undeliverable(f"jobs.notify has no {message.target} any more")
        way, send = next((way, send) for way, send in _WAYS.items() if getattr(target, way) is not None)
        send(getattr(target, way), f"jobs.notify.{target.name}", message, facts)


def _post(webhook: WebhookConfig, where: str, message: Message, value: Mapping[str, Any]) -> None:
    """Post JSON; raises Undeliverable for an answer that says no."""
    address = webhook.address(where)
    parts = urlsplit(address)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = {"Content-Type": "application/json", "Idempotency-Key": message.key}
    context = ssl.create_default_context(cafile=webhook.ca) if webhook.ca else None
    with Client(f"{parts.scheme}://{parts.netloc}", webhook.token(where), TIMEOUT_S, context) as client:
        reply = client.request("POST", path, json.dumps(value).encode(), headers)
    if 200 <= reply.status < 300:
        return
    said = f"HTTP {reply.status}: {reply.body[:200].decode(errors='replace').strip()}"
    if reply.status in RETRIED or reply.status >= 500 or reply.status == 408:
        raise OSError(said)
    raise Undeliverable(said)


def _webhook(config: WebhookConfig, where: str, message: Message, facts: Mapping[str, Any]) -> None:
    _post(config, where, message, wording.document(message, facts))


def _slack(config: WebhookConfig, where: str, message: Message, facts: Mapping[str, Any]) -> None:
    _post(config, where, message, wording.slack(message, facts))


def _email(config: EmailConfig, where: str, message: Message, facts: Mapping[str, Any]) -> None:
    context = ssl.create_default_context(cafile=config.ca)
    if config.security == "tls":
        server: smtplib.SMTP = smtplib.SMTP_SSL(config.host, config.port, timeout=TIMEOUT_S, context=context)
    else:
        server = smtplib.SMTP(config.host, config.port, timeout=TIMEOUT_S)
    with server:
        if config.security == "starttls":
            server.starttls(context=context)
        if config.username is not None:
            server.login(config.username, config.password(where) or "")
        try:
            server.send_message(wording.mail(message, facts, config.sender, config.to))
        except smtplib.SMTPResponseException as error:
            if error.smtp_code >= 500:
                raise Undeliverable(f"SMTP {error.smtp_code}: {error.smtp_error!r}") from None
            raise
        except smtplib.SMTPRecipientsRefused as error:
            raise Undeliverable(f"refused: {', '.join(error.recipients)}") from None


_WAYS: dict[str, Callable[[Any, str, Message, Mapping[str, Any]], None]] = {
    "webhook": _webhook,
    "slack": _slack,
    "email": _email,
}
