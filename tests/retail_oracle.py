"""What every table of examples/retail must hold, once more in plain Python, from the files that were sent.

Shares no code with the jobs and none with any engine. Rows are dicts by column; times are aware datetimes, amounts
exact decimals.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]
GAP = timedelta(minutes=30)
WINDOW = timedelta(minutes=10)


def by(rows: Iterable[Row], *columns: str) -> dict[Any, list[Row]]:
    """Rows by the values of `columns`; a single column's value stands by itself."""
    groups: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        key = tuple(row[column] for column in columns)
        groups[key if len(columns) > 1 else key[0]].append(row)
    return groups


def total(rows: Iterable[Row], column: str) -> Any:
    """The sum of a column."""
    return sum((row[column] for row in rows), type(next(iter(rows), {column: 0})[column])(0))  # type: ignore[call-overload]


class Shop:
    """The invoices: `lines` are the distinct lines of the files, in order."""

    def __init__(self, files: Iterable[Path]) -> None:
        seen: dict[tuple[str, ...], None] = {}
        for file in files:
            with file.open(newline="") as text:
                seen.update(dict.fromkeys(map(tuple, list(csv.reader(text))[1:])))
        self.lines = [self._line(*fields) for fields in seen]

    def _line(
        self, invoice: str, code: str, text: str, quantity: str, at: str, price: str, customer: str, country: str
    ) -> Row:
        count, each = int(quantity), Decimal(price).quantize(Decimal("0.01"))
        kind = "cancellation" if invoice[0] == "C" else "sale" if count > 0 and each > 0 else "adjustment"
        moment = datetime.strptime(at, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
        return {
            "invoice": invoice,
            "stock_code": code,
            "description": text.strip(" ") or None,
            "quantity": count,
            "invoiced_at": moment,
            "unit_price": each,
            "amount": count * each,
            "customer": int(customer.removesuffix(".0")) if customer else None,
            "country": country,
            "kind": kind,
        }

    def invoices(self) -> list[Row]:
        return [
            {
                "invoice": invoice,
                "invoiced_at": min(line["invoiced_at"] for line in lines),
                "customer": lines[0]["customer"],
                "country": lines[0]["country"],
                "cancelled": invoice.startswith("C"),
                "lines": len(lines),
                "units": total(lines, "quantity"),
                "amount": total(lines, "amount"),
            }
            for invoice, lines in by(self.lines, "invoice").items()
        ]

    def customers(self) -> list[Row]:
        known = (invoice for invoice in self.invoices() if invoice["customer"] is not None)
        return [
            {
                "customer": customer,
                "first_seen": min(invoice["invoiced_at"] for invoice in invoices),
                "last_seen": max(invoice["invoiced_at"] for invoice in invoices),
                "orders": sum(not invoice["cancelled"] for invoice in invoices),
                "cancellations": sum(invoice["cancelled"] for invoice in invoices),
                "amount": total(invoices, "amount"),
            }
            for customer, invoices in by(known, "customer").items()
        ]

    def returns(self) -> list[Row]:
        return [
            {
                **{name: line[name] for name in ("invoice", "invoiced_at", "stock_code", "customer", "kind")},
                "units": -line["quantity"],
                "amount": -line["amount"],
            }
            for line in self.lines
            if line["kind"] != "sale" and line["quantity"] < 0
        ]

    def country_days(self) -> list[Row]:
        counted = ({**line, "day": line["invoiced_at"].date()} for line in self.lines if line["kind"] != "adjustment")
        return [
            {
                "day": day,
                "country": country,
                "lines": len(lines),
                "invoices": len({line["invoice"] for line in lines}),
                "amount": total(lines, "amount"),
            }
            for (day, country), lines in by(counted, "day", "country").items()
        ]

    def retail_daily(self) -> list[Row]:
        dated = ({**invoice, "day": invoice["invoiced_at"].date()} for invoice in self.invoices())
        rows = []
        for day, invoices in by(dated, "day").items():
            orders = [invoice for invoice in invoices if not invoice["cancelled"]]
            gross, net = total(orders, "amount"), total(invoices, "amount")
            buyers = {invoice["customer"] for invoice in invoices} - {None}
            rows.append(
                {
                    "day": day,
                    "orders": len(orders),
                    "customers": len(buyers),
                    "gross": gross,
                    "cancelled": net - gross,
                    "net": net,
                }
            )
        return rows

    def top_products(self) -> list[Row]:
        names: dict[str, Counter[str]] = defaultdict(Counter)
        for line in self.lines:
            if line["description"]:
                names[line["stock_code"]][line["description"]] += 1
        sold = by((line for line in self.lines if line["kind"] == "sale"), "stock_code")
        ranked = sorted(sold.items(), key=lambda item: (-total(item[1], "amount"), item[0]))
        return [
            {
                "place": place,
                "stock_code": code,
                "description": min(names[code], key=lambda name: (-names[code][name], name)) if names[code] else None,
                "units": total(lines, "quantity"),
                "amount": total(lines, "amount"),
            }
            for place, (code, lines) in enumerate(ranked[:50], start=1)
        ]

    def customer_value(self) -> list[Row]:
        ranked = sorted(self.customers(), key=lambda row: (-row["amount"], row["customer"]))
        return [
            {
                **{name: row[name] for name in ("customer", "orders", "amount")},
                "place": place,
                "band": "low" if row["amount"] <= 0 else "top" if place <= len(ranked) // 10 else "middle",
            }
            for place, row in enumerate(ranked, start=1)
        ]

    def bought_together(self) -> list[Row]:
        pairs: Counter[tuple[str, str]] = Counter()
        for lines in by((line for line in self.lines if line["kind"] == "sale"), "invoice").values():
            pairs.update(combinations(sorted({line["stock_code"] for line in lines}), 2))
        return [{"first": a, "second": b, "invoices": count} for (a, b), count in pairs.items() if count >= 10]


class Encyclopedia:
    """The edits of people; `day` is what the daily jobs are about."""

    def __init__(self, lines: Iterable[bytes], day: datetime) -> None:
        self.day = day
        sent = map(json.loads, lines)
        self.edits = [
            {
                **{name: edit[name] for name in ("channel", "page", "user", "added", "deleted", "delta")},
                "time": datetime.fromisoformat(edit["time"]),
                "is_new": edit["isNew"],
                "is_anonymous": edit["isAnonymous"],
            }
            for edit in sent
            if not edit["isRobot"]
        ]

    def _of_the_day(self) -> Iterator[Row]:
        return (edit for edit in self.edits if timedelta() <= edit["time"] - self.day < timedelta(days=1))

    def sessions(self) -> list[Row]:
        rows = []
        for user, edits in by(self.edits, "user").items():
            edits.sort(key=lambda edit: edit["time"])
            session: list[Row] = []
            for edit in [*edits, None]:
                if session and (edit is None or edit["time"] - session[-1]["time"] > GAP):
                    rows.append(
                        {
                            "user": user,
                            "started": session[0]["time"],
                            "ended": session[-1]["time"],
                            "edits": len(session),
                            "pages": len({one["page"] for one in session}),
                            "added": total(session, "added"),
                        }
                    )
                    session = []
                if edit is not None:
                    session.append(edit)
        return rows

    def channel_windows(self) -> list[Row]:
        found: dict[tuple[str, int], list[Row]] = defaultdict(list)
        for edit in self._of_the_day():
            found[edit["channel"], (edit["time"] - self.day) // WINDOW].append(edit)
        per_channel = Counter(edit["channel"] for edit in self._of_the_day())
        busiest = sorted(per_channel, key=lambda channel: (-per_channel[channel], channel))[:10]
        return [
            {
                "channel": channel,
                "window_start": self.day + index * WINDOW,
                "edits": len(edits),
                "users": len({edit["user"] for edit in edits}),
                "added": sum(edit["added"] for edit in edits),
            }
            for channel in busiest
            for index in range(timedelta(days=1) // WINDOW)
            for edits in [found[channel, index]]
        ]

    def wiki_daily(self) -> list[Row]:
        return [
            {
                "day": self.day.date(),
                "channel": channel,
                "edits": len(edits),
                "users": len({edit["user"] for edit in edits}),
                "pages": len({edit["page"] for edit in edits}),
                "added": total(edits, "added"),
                "new_pages": sum(edit["is_new"] for edit in edits),
            }
            for channel, edits in by(self._of_the_day(), "channel").items()
        ]

    def editors(self) -> list[Row]:
        return [
            {
                "user": user,
                "sessions": len(sessions),
                "edits": total(sessions, "edits"),
                "added": total(sessions, "added"),
                # SQL's date_diff counts the boundaries of seconds that were crossed
                "longest_s": max(_second(one["ended"]) - _second(one["started"]) for one in sessions),
            }
            for user, sessions in by(self.sessions(), "user").items()
        ]

    def edits_forecast(self) -> list[Row]:
        """Least squares by the normal equations of numpy, on features that are laid out by hand."""
        rows = []
        for channel, windows in by(self.channel_windows(), "channel").items():
            counts = [window["edits"] for window in windows]
            first = len(counts) * 3 // 4
            design = np.array([[1.0, *counts[i - 3 : i]] for i in range(3, len(counts))])
            weights = np.linalg.lstsq(design[: first - 3], np.array(counts[3:first], float), rcond=None)[0]
            for index in range(first, len(counts)):
                rows.append(
                    {
                        "channel": channel,
                        "window_start": windows[index]["window_start"],
                        "edits": counts[index],
                        "predicted": float(design[index - 3] @ weights),
                    }
                )
        return rows


class Forge:
    """The events of GitHub, each id once."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        once = {event["id"]: event for event in reversed([json.loads(line) for line in lines])}
        self.events = [
            {
                "id": event["id"],
                "type": event["type"],
                "actor": event["actor"].get("login"),
                "repo": event["repo"]["name"],
                "created_at": datetime.fromisoformat(event["created_at"]),
            }
            for event in once.values()
        ]

    def repositories(self) -> list[Row]:
        return [
            {
                "repo": repo,
                "events": len(events),
                "pushes": sum(event["type"] == "PushEvent" for event in events),
                "stars": sum(event["type"] == "WatchEvent" for event in events),
                "people": len({event["actor"] for event in events} - {None}),
            }
            for repo, events in by(self.events, "repo").items()
        ]

    def github_pulse(self) -> list[Row]:
        timed = ({**event, "minute": event["created_at"].replace(second=0, microsecond=0)} for event in self.events)
        return [
            {
                "minute": minute,
                "type": kind,
                "events": len(events),
                "repositories": len({event["repo"] for event in events}),
            }
            for (minute, kind), events in by(timed, "minute", "type").items()
        ]


def _second(moment: datetime) -> int:
    return int((moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1))


def packed_lines(file: Path) -> list[bytes]:
    """Lines of a file, unpacked where it is gzip."""
    data = file.read_bytes()
    return (gzip.decompress(data) if file.suffix == ".gz" else data).splitlines()


def tables(shop: Shop, wiki: Encyclopedia, forge: Forge) -> dict[str, Callable[[], list[Row]]]:
    """How to compute the rows of each table of the example."""
    return {
        "clean.lines": lambda: shop.lines,
        "clean.edits": lambda: wiki.edits,
        "clean.github_events": lambda: forge.events,
        "facts.invoices": shop.invoices,
        "facts.customers": shop.customers,
        "facts.returns": shop.returns,
        "facts.country_days": shop.country_days,
        "facts.sessions": wiki.sessions,
        "facts.channel_windows": wiki.channel_windows,
        "facts.repositories": forge.repositories,
        "reports.retail_daily": shop.retail_daily,
        "reports.top_products": shop.top_products,
        "reports.customer_value": shop.customer_value,
        "reports.bought_together": shop.bought_together,
        "reports.wiki_daily": wiki.wiki_daily,
        "reports.editors": wiki.editors,
        "reports.edits_forecast": wiki.edits_forecast,
        "reports.github_pulse": forge.github_pulse,
    }
