"""Traces by OpenTelemetry, where its own environment variables ask for them; else nothing is imported and no call made.

Every process of the platform calls `start` once. A request is sampled where it comes in, by a coin that is tossed
before any tracer is called (1 µs instead of 8). What is sampled carries its context as text (`traceparent` of W3C)
in messages and records of the log; what is not carries nothing. So whoever has a context has a sampled one.

1. Work on a batch is a span in the trace of each of the batch's first PARENTS_MAX sampled contexts, linked with the
   others: one trace shows the whole way of its event, and a batch of thousands costs as much as one of eight.
2. `Spans` begin and end at any place and in any thread; what is begun and dropped is never told.
3. Spans have names of tables, counts and sizes; never what is in an event or a query.
"""

from __future__ import annotations

import logging
import os
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar, Token
from typing import Any

logger = logging.getLogger(__name__)

PARENTS_MAX = 8  # spans for one batch
LINKS_MAX = 32  # of one span: each adds some 1.5 µs
HINT = "traces and logs are asked for by OTEL_… variables, and the exporter is missing: pip install 'eagleray[otlp]'"

_HEADER = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_provider: Any = None
_tracer: Any = None  # of this process; None: traces are off
_current: ContextVar[str] = ContextVar("traceparent", default="")
Attributes = Mapping[str, str | int | float | bool]


def wanted(signal: str, environ: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's variables ask to export a signal (`traces` or `logs`) by OTLP."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environ.get(f"OTEL_{signal.upper()}_EXPORTER", "").strip().lower()
    if exporter:
        return exporter == "otlp"
    places = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
    return any(environ.get(place, "").strip() for place in places)


def start(process: str) -> None:
    """Trace from now on what is sampled, if that is asked for; `process` names this one. A second call does nothing."""
    global _tracer
    if _tracer is not None or not wanted("traces", os.environ):
        return
    try:
        from eagleray.cluster.telemetry.otlp import tracer_provider

        use(tracer_provider(process))
    except ImportError:
        logger.warning(HINT)


def use(provider: Any) -> None:
    """Make spans with a provider of OpenTelemetry's; None: none any more."""
    global _tracer, _provider
    _provider = provider
    _tracer = provider.get_tracer(__name__) if provider is not None else None


def is_on() -> bool:
    """Whether this process makes spans."""
    return _tracer is not None


def flush() -> None:
    """Send what has ended; for a process that ends itself."""
    if _provider is not None:
        _provider.force_flush()


def current() -> str:
    """The context that the calling task or thread works in; empty: an unsampled one."""
    return _current.get()


class Coin:
    """Decides which requests are traced, as OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG say."""

    def __init__(self, environ: Mapping[str, str], draw: Callable[[], float] = random.random) -> None:
        """Unknown samplers and ratios are said, and count as the default: what the parent decided, else all."""
        sampler = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower() or "parentbased_always_on"
        self._follows = sampler.startswith("parentbased_")
        kind = sampler.removeprefix("parentbased_")
        if kind not in ("always_on", "always_off", "traceidratio"):
            logger.warning("OTEL_TRACES_SAMPLER: %r is not known; parentbased_always_on is used", sampler)
            self._follows, kind = True, "always_on"
        self._ratio = {"always_on": 1.0, "always_off": 0.0}.get(kind, -1.0)
        if self._ratio < 0:
            self._ratio = _ratio(environ.get("OTEL_TRACES_SAMPLER_ARG", ""))
        self._draw = draw

    def toss(self, header: str | None) -> str | None:
        """The parent's context, or empty where there is none; None: the request is not traced."""
        found = _HEADER.fullmatch(header) if header else None
        if found is None or header is None:
            return "" if self._draw() < self._ratio else None
        is_sampled = bool(int(found[3], 16) & 1) if self._follows else self._draw() < self._ratio
        return f"00-{found[1]}-{found[2]}-01" if is_sampled else None


def _ratio(text: str) -> float:
    try:
        return min(1.0, max(0.0, float(text))) if text else 1.0
    except ValueError:
        logger.warning("OTEL_TRACES_SAMPLER_ARG: %r is no number from 0 to 1; 1 is used", text)
        return 1.0


def _text(span: Any) -> str:
    about = span.get_span_context()
    return f"00-{about.trace_id:032x}-{about.span_id:016x}-01"


class Spans:
    """The same work in the traces of several contexts. `contexts` are those of what it leads to."""

    __slots__ = ("_spans", "_token", "contexts")

    def __init__(self, spans: Sequence[Any] = ()) -> None:
        """Use `begin` or `request`."""
        self._spans = spans
        self.contexts: tuple[str, ...] = tuple(map(_text, spans))
        self._token: Token[str] | None = None

    def note(self, **attributes: str | int | float | bool) -> None:
        """Say more of it."""
        for span in self._spans:
            span.set_attributes({f"eagleray.{name}": value for name, value in attributes.items()})

    def end(self, error: BaseException | None = None) -> None:
        """It is over now; with the class of an error, whose words may quote an event."""
        for span in self._spans:
            if error is not None:
                from opentelemetry.trace import Status, StatusCode

                span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            span.end()

    def __enter__(self) -> Spans:
        """What is logged or begun meanwhile, here, belongs to the first of them."""
        if self.contexts:
            self._token = _current.set(self.contexts[0])
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """End them."""
        if self._token is not None:
            _current.reset(self._token)
        if self._spans:
            self.end(error)


NONE = Spans()
"""No span: nothing of it is sampled."""


def begin(name: str, parents: Iterable[str], **attributes: str | int | float | bool) -> Spans:
    """A span below each of the first PARENTS_MAX of `parents`, linked with the others; NONE without any."""
    if _tracer is None or not (contexts := list(dict.fromkeys(parents))):
        return NONE
    from opentelemetry.trace import Link

    told = [_remote(context) for context in contexts[: LINKS_MAX + 1]]
    spans = []
    for parent in told[:PARENTS_MAX]:
        links = [Link(other) for other in told if other is not parent]
        spans.append(_begun(name, parent, links, attributes))
    return Spans(spans)


def step(name: str, **attributes: str | int | float | bool) -> Spans:
    """A part of what the calling task or thread works in."""
    context = _current.get()
    return begin(name, (context,), **attributes) if context else NONE


def request(name: str, parent: str, **attributes: str | int | float | bool) -> Spans:
    """The first span of ours: of a request or a run, below `parent` where that is not empty."""
    if _tracer is None:
        return NONE
    from opentelemetry.trace import SpanKind

    return Spans([_begun(name, _remote(parent) if parent else None, [], attributes, SpanKind.SERVER)])


def run(name: str, environ: Mapping[str, str], **attributes: str | int | float | bool) -> Spans:
    """As `request`, of work that no request asked for: its parent is TRACEPARENT, and a coin is tossed for it."""
    sampled = Coin(environ).toss(environ.get("TRACEPARENT")) if _tracer is not None else None
    return NONE if sampled is None else request(name, sampled, **attributes)


def _begun(name: str, parent: Any, links: Sequence[Any], attributes: Attributes, kind: Any = None) -> Any:
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanKind, set_span_in_context

    context = set_span_in_context(NonRecordingSpan(parent), Context()) if parent is not None else Context()
    named = {f"eagleray.{key}": value for key, value in attributes.items()}
    return _tracer.start_span(name, context, kind or SpanKind.INTERNAL, named, links)


def _remote(context: str) -> Any:
    from opentelemetry.trace import SpanContext, TraceFlags

    _, trace, span, _ = context.split("-")
    return SpanContext(int(trace, 16), int(span, 16), is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def trace_id(context: str) -> str:
    """The trace of a context."""
    return context[3:35]


def span_id(context: str) -> str:
    """The span of a context."""
    return context[36:52]
