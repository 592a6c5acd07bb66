"""A day of a game: 20 million events, who plays and what is sold, and the 300 statements that a data team asks of it.

Statements are plain SQL that DuckDB and Spark both read. Four kinds: 144 over an hour of events (rollups, distinct
counts, sessions, joins with users and products, percentiles), 42 over the whole day, 6 that gather the hours, 108
reports on these. `$start` and `$end` are the day.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

HOURS = 24
KINDS = ("login", "logout", "match_start", "match_end", "purchase", "chat", "level_up", "error")
KIND_SHARE = (0.08, 0.07, 0.2, 0.2, 0.05, 0.3, 0.07, 0.03)
COUNTRIES = tuple("AR AT AU BE BR CA CH CL CN CO CZ DE DK ES FI FR GB GR HU IE IN IT JP KR MX NL NO PL SE US".split())
PLATFORMS = ("android", "console", "ios", "pc")
PLANS = ("free", "month", "season", "year")
CATEGORIES = tuple(f"category_{number:02d}" for number in range(20))
USERS, PRODUCTS = 500_000, 10_000
DAY_US = 1_780_272_000_000_000  # 2026-06-01
HOUR_US = 3_600_000_000

EVENTS = pa.schema(
    [
        pa.field("time", pa.timestamp("us", "UTC")),
        pa.field("user_id", pa.int64()),
        pa.field("kind", pa.string()),
        pa.field("country", pa.string()),
        pa.field("platform", pa.string()),
        pa.field("level", pa.int32()),
        pa.field("product_id", pa.int32()),
        pa.field("amount_cents", pa.int64()),
        pa.field("duration_ms", pa.int32()),
    ]
)


def events(rows: int) -> Iterator[pa.Table]:
    """The day's events, hour by hour. A few users are busy, most are not; a user stays in a country."""
    chance = np.random.default_rng(1)
    home = chance.integers(0, len(COUNTRIES), USERS)
    for hour in range(HOURS):
        count = rows // HOURS + (hour < rows % HOURS)
        users = (chance.random(count) ** 3 * USERS).astype(np.int64)
        kinds = chance.choice(len(KINDS), count, p=KIND_SHARE)
        bought = kinds == KINDS.index("purchase")
        columns = [
            np.sort(chance.integers(0, HOUR_US, count)) + DAY_US + hour * HOUR_US,
            users,
            _named(kinds, KINDS),
            _named(home[users], COUNTRIES),
            _named(chance.integers(0, len(PLATFORMS), count), PLATFORMS),
            1 + users % 60,
            pa.array(chance.integers(0, PRODUCTS, count), mask=~bought),
            np.where(bought, chance.integers(99, 10_000, count), 0),
            (chance.exponential(80, count) + 1).astype(np.int32),
        ]
        yield pa.table(columns, names=EVENTS.names).cast(EVENTS)


def users() -> pa.Table:
    """Everyone: id, plan, and the day number of signing up."""
    chance = np.random.default_rng(2)
    plans = _named(chance.integers(0, len(PLANS), USERS), PLANS)
    return pa.table({"user_id": np.arange(USERS), "plan": plans, "joined_day": chance.integers(0, 1000, USERS)})


def products() -> pa.Table:
    """Everything that is sold: id and category."""
    categories = _named(np.arange(PRODUCTS) % len(CATEGORIES), CATEGORIES)
    return pa.table({"product_id": np.arange(PRODUCTS, dtype=np.int32), "category": categories})


def _named(codes: np.ndarray, names: tuple[str, ...]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int8)), pa.array(names)).cast(pa.string())


HOURLY = {
    "rollup": """
SELECT kind, country, platform, count(*) AS events, sum(amount_cents) AS cents, max(level) AS top_level
FROM game.events
WHERE {hour}
GROUP BY kind, country, platform""",
    "people": """
SELECT kind, platform, count(DISTINCT user_id) AS users, count(DISTINCT country) AS countries, count(*) AS events
FROM game.events
WHERE {hour}
GROUP BY kind, platform""",
    "sessions": """
WITH marked AS (
    SELECT
        user_id,
        time,
        CASE
            WHEN time - lag(time) OVER (PARTITION BY user_id ORDER BY time) <= INTERVAL '5' MINUTE THEN 0 ELSE 1
        END AS opens
    FROM game.events
    WHERE {hour}
),
numbered AS (
    SELECT user_id, sum(opens) OVER (PARTITION BY user_id ORDER BY time) AS session FROM marked
),
counted AS (
    SELECT user_id, session, count(*) AS events FROM numbered GROUP BY user_id, session
)
SELECT events, count(*) AS sessions, count(DISTINCT user_id) AS users
FROM counted
GROUP BY events""",
    "plans": """
SELECT plan, country, count(*) AS events, count(DISTINCT e.user_id) AS users, sum(amount_cents) AS cents
FROM game.events AS e
JOIN game.users AS u ON e.user_id = u.user_id
WHERE {hour}
GROUP BY plan, country""",
    "sales": """
SELECT category, count(*) AS sold, sum(amount_cents) AS cents, count(DISTINCT user_id) AS buyers
FROM game.events AS e
JOIN game.products AS p ON e.product_id = p.product_id
WHERE {hour} AND kind = 'purchase'
GROUP BY category""",
    "latency": """
SELECT
    platform,
    kind,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_ms) AS p50,
    percentile_cont(0.99) WITHIN GROUP (ORDER BY duration_ms) AS p99,
    avg(duration_ms) AS mean
FROM game.events
WHERE {hour}
GROUP BY platform, kind""",
}
DAY = "time >= $start AND time < $end"


def statements() -> dict[str, tuple[str, str]]:
    """By the job's name its output table and its statement, in an order that runs."""
    found: dict[str, tuple[str, str]] = {}
    for kind, text in HOURLY.items():
        for hour in range(HOURS):
            found[f"{kind}_{hour:02d}"] = (f"hours.{kind}_{hour:02d}", text.strip().format(hour=_hour(hour)))
    found |= {f"day_{name}": (f"days.{name}", text) for name, text in _of_the_day()}
    found |= {f"all_{kind}": (f"days.all_{kind}", _gathered(kind)) for kind in HOURLY}
    found |= {f"report_{name}": (f"reports.{name}", text) for name, text in _reports()}
    return found


def _hour(hour: int) -> str:
    end = f"2026-06-01 {hour + 1:02d}" if hour + 1 < HOURS else "2026-06-02 00"
    return f"time >= TIMESTAMPTZ '2026-06-01 {hour:02d}:00:00+00' AND time < TIMESTAMPTZ '{end}:00:00+00'"


def _gathered(kind: str) -> str:
    return "\nUNION ALL\n".join(f"SELECT {hour} AS hour, * FROM hours.{kind}_{hour:02d}" for hour in range(HOURS))


def _of_the_day() -> Iterator[tuple[str, str]]:
    counts = "count(*) AS events, count(DISTINCT user_id) AS users, sum(amount_cents) AS cents"
    for country in COUNTRIES:
        where = f"WHERE {DAY} AND country = '{country}'"
        yield (
            f"country_{country.lower()}",
            f"SELECT kind, level, {counts}\nFROM game.events\n{where}\nGROUP BY kind, level",
        )
    for kind in KINDS:
        where = f"WHERE {DAY} AND kind = '{kind}'"
        yield (
            f"kind_{kind}",
            f"SELECT country, platform, {counts}\nFROM game.events\n{where}\nGROUP BY country, platform",
        )
    for platform in PLATFORMS:
        joined = "FROM game.events AS e\nJOIN game.users AS u ON e.user_id = u.user_id"
        where = f"WHERE {DAY} AND platform = '{platform}'"
        select = "SELECT plan, kind, count(*) AS events, count(DISTINCT e.user_id) AS users"
        yield f"platform_{platform}", f"{select}\n{joined}\n{where}\nGROUP BY plan, kind"


def _reports() -> Iterator[tuple[str, str]]:
    for country in COUNTRIES:
        where = f"WHERE country = '{country}'"
        yield (
            f"trend_{country.lower()}",
            f"SELECT hour, kind, sum(events) AS events, sum(cents) AS cents,\n"
            f"    rank() OVER (PARTITION BY hour ORDER BY sum(events) DESC, kind) AS place\n"
            f"FROM days.all_rollup\n{where}\nGROUP BY hour, kind",
        )
        yield (
            f"plans_{country.lower()}",
            f"SELECT p.hour, p.plan, p.users, p.cents, r.events\nFROM days.all_plans AS p\n"
            f"JOIN (SELECT hour, sum(events) AS events FROM days.all_rollup {where} GROUP BY hour) AS r\n"
            f"    ON p.hour = r.hour\nWHERE p.country = '{country}'",
        )
    for category in CATEGORIES:
        yield (
            f"sales_{category}",
            f"SELECT hour, sold, cents, buyers, sum(cents) OVER (ORDER BY hour) AS so_far\n"
            f"FROM days.all_sales\nWHERE category = '{category}'",
        )
    for kind in KINDS:
        yield (
            f"where_{kind}",
            f"SELECT d.country, d.platform, d.users, r.events\nFROM days.kind_{kind} AS d\n"
            f"JOIN (SELECT country, platform, sum(events) AS events FROM days.all_rollup\n"
            f"    WHERE kind = '{kind}' GROUP BY country, platform) AS r\n"
            f"    ON d.country = r.country AND d.platform = r.platform",
        )
    for platform in PLATFORMS:
        yield (
            f"speed_{platform}",
            f"SELECT l.hour, l.kind, l.p50, l.p99, p.users\nFROM days.all_latency AS l\n"
            f"JOIN days.all_people AS p ON l.hour = p.hour AND l.kind = p.kind AND l.platform = p.platform\n"
            f"WHERE l.platform = '{platform}'",
        )
    for plan in PLANS:
        yield (
            f"plan_{plan}",
            f"SELECT country, sum(events) AS events, sum(cents) AS cents\n"
            f"FROM days.all_plans\nWHERE plan = '{plan}'\nGROUP BY country",
        )
    for hour in range(1, HOURS, 2):
        yield (
            f"change_{hour:02d}",
            f"SELECT a.kind, a.country, a.platform, b.events - a.events AS more, b.cents - a.cents AS more_cents\n"
            f"FROM hours.rollup_{hour - 1:02d} AS a\nJOIN hours.rollup_{hour:02d} AS b\n"
            f"    ON a.kind = b.kind AND a.country = b.country AND a.platform = b.platform",
        )
