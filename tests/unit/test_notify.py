"""Jobs that tell: messages reach real servers, are tried again, hold nothing up, and what does not arrive is said."""

from __future__ import annotations

import email
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from eagleray.cli.app import main
from eagleray.cluster.clock import ManualClock, SystemClock
from eagleray.cluster.config import Config, load_config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.sections import JobsConfig, LineageConfig
from eagleray.jobs.model import Job
from eagleray.jobs.notify.courier import Courier
from eagleray.jobs.notify.outbox import ATTEMPTS_MAX, Outbox, undelivered
from eagleray.jobs.period import daily
from eagleray.jobs.project.load import load_project
from eagleray.jobs.run.history import Ended, History
from eagleray.jobs.run.local import LocalWorkers
from eagleray.jobs.run.outcome import Ending, Failure, Outcome
from eagleray.jobs.run.plan import Node, Plan
from eagleray.jobs.run.run_state import Board, Capacity
from eagleray.jobs.run.runner import Runner
from tests.certificates import make
from tests.job_work import do, make_job
from tests.jobs_project import make_project, sql_file
from tests.lake_tables import event_rows, make_lake
from tests.sql_lake import land
from tests.told import Door, http_door, smtp_door

DAY = daily(date(2026, 3, 27))
START_US = int(datetime(2026, 3, 28, 8, tzinfo=UTC).timestamp() * 1e6)


@pytest.fixture
def door() -> Iterator[Door]:
    with http_door() as found:
        yield found


def config_of(directory: Path, *notify: dict[str, Any], **jobs: Any) -> Config:
    settings = {"notify": notify, "concurrency": 2, **jobs}
    file = directory / "eagleray.yaml"
    file.write_text(json.dumps({"data_dir": "data", "jobs": settings}))
    return load_config(file, environ={})


FAILED = Failure("wrong", "no <rows> & more")


class Told:
    """Runs jobs with a courier whose clock is moved by hand."""

    def __init__(self, config: Config, clock: ManualClock | SystemClock | None = None) -> None:
        self.config = config
        self.clock = clock or SystemClock()
        self.history = History.open(config, self.clock)
        self.outbox = Outbox(self.history.engine, config.jobs)

    def run(self, *jobs: Job) -> None:
        """A run in child processes."""
        courier = Courier(self.config, self.outbox, self.clock)
        workers = LocalWorkers(self.config, do)
        try:
            plan = Plan("x", "2026-03-27", [Node(job, DAY) for job in jobs])
            Runner(self.history, workers, self.config.jobs_dir / "logs", teller=courier).run(plan)
        finally:
            workers.close()
            courier.close(20.0)

    def end(self, job: Job, ending: Ending = FAILED) -> None:
        """A run that has ended so, as the runner would write it down, without a process."""
        plan = Plan("x", "2026-03-27", [Node(job, DAY)])
        board = Board(plan.nodes, Capacity(1, 1.0, 1 << 30), {})
        rows = list(board.rows.values())
        run = self.history.begin(plan, "run", rows)
        self.history.start(run, rows)
        board.start(rows[0].node.key)
        board.end(rows[0].node.key, ending, 0.0)
        self.history.end(run, [Ended(rows[0], ending)], [], {job.output})
        self.history.finish(run, rows[0].state, [])
        self.outbox.ended(run, rows, self.clock.now_us())
        self.deliver()

    def deliver(self) -> None:
        Courier(self.config, self.outbox, self.clock).close(20.0)

    def undelivered(self) -> list[tuple[str, str, int]]:
        return [(one.target, one.state, one.attempts) for one in undelivered(self.history.engine)]


def test_webhook_slack_and_mail_hear_of_failure_and_recovery(
    door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_TOKEN", "s3cret-token")
    monkeypatch.setenv("MAIL_PASSWORD", "password")
    (tmp_path / "hook").write_text(f"{door.url}/services/T0/B0\n")
    pair = make(tmp_path, "mail")
    with smtp_door("password", pair) as (box, port):
        ways = [
            {"name": "ops", "webhook": {"url": f"{door.url}/in?x=1", "token_env": "HOOK_TOKEN"}},
            {"name": "chat", "slack": {"url_file": "hook"}},
            mail(port, username="me", password_env="MAIL_PASSWORD", security="starttls", ca=str(pair.cert)),
        ]
        told = Told(config_of(tmp_path, *ways))
        told.run(make_job("a", "fail(job, 'no <rows> & more', retryable=False)"), make_job("b"))
        told.run(make_job("a"))
        told.end(make_job("a"), Outcome(1, 1, 1, 7))  # it went well before: nothing to tell
        assert told.undelivered() == []
        read = [email.message_from_bytes(envelope.content) for envelope in box.mails]
        assert all(envelope.rcpt_tos == ["ops@x.example", "more@x.example"] for envelope in box.mails)
    hooks = [(headers, sent) for path, headers, sent in door.got if path == "/in?x=1"]
    (headers, failed), (_, recovered) = hooks
    assert headers["authorization"] == "Bearer s3cret-token" and headers["idempotency-key"] == failed["key"]
    assert (failed["event"], failed["job"], failed["period"], failed["attempts"]) == ("failed", "a", "2026-03-27", 1)
    assert "no <rows> & more" in failed["reason"] and failed["output"] == "t.a"
    assert (recovered["event"], recovered["rows"], recovered["state"]) == ("recovered", 1, "succeeded")
    first, second = (sent for path, _, sent in door.got if path == "/services/T0/B0")
    assert list(first) == ["text"] and first["text"].startswith("job a failed for 2026-03-27\n")
    assert "no &lt;rows&gt; &amp; more" in first["text"] and second["text"].startswith("job a works again, for")
    assert [one["Subject"] for one in read] == [
        "[eagleray] job a failed for 2026-03-27",
        "[eagleray] job a works again, for 2026-03-27",
    ]
    assert "no <rows> & more" in read[0].get_payload()


def mail(port: int, **more: Any) -> dict[str, Any]:
    to = ["ops@x.example", "more@x.example"]
    server = {"host": "127.0.0.1", "port": port, "security": "none", "sender": "eagle@x.example", "to": to, **more}
    return {"name": "post", "email": server}


def test_what_a_server_refuses_for_good_is_not_tried_again(door: Door, tmp_path: Path) -> None:
    with smtp_door() as (box, port):
        box.refuse = ["ops@x.example", "more@x.example"]
        door.answers = [403]
        told = Told(config_of(tmp_path, mail(port), {"name": "ops", "webhook": {"url": door.url}}))
        told.end(make_job("a"))
    assert sorted(told.undelivered()) == [("ops", "failed", 1), ("post", "failed", 1)] and len(door.got) == 1


def test_what_fails_is_tried_again_later_and_then_given_up(door: Door, tmp_path: Path) -> None:
    clock = ManualClock(START_US)
    told = Told(config_of(tmp_path, {"name": "ops", "webhook": {"url": door.url}}), clock)
    door.answers = [503] * 2
    told.end(make_job("a"))
    assert told.undelivered() == [("ops", "waiting", 1)]
    told.deliver()
    assert len(door.got) == 1  # not before its time
    for _ in range(2):
        clock.advance(600_000_000)
        told.deliver()
    assert told.undelivered() == [] and len(door.got) == 3
    assert len({headers["idempotency-key"] for _, headers, _ in door.got}) == 1
    door.answers = [500] * ATTEMPTS_MAX
    told.end(make_job("b"))
    for _ in range(ATTEMPTS_MAX + 2):
        clock.advance(600_000_000)
        told.deliver()
    assert told.undelivered() == [("ops", "failed", ATTEMPTS_MAX)] and door.answers == []


def test_a_server_that_is_down_neither_fails_nor_holds_up_a_job(tmp_path: Path, capsys: Any) -> None:
    config = config_of(
        tmp_path, {"name": "ops", "webhook": {"url": "http://127.0.0.1:9"}, "on": ["succeeded"]},
        {"name": "gone", "slack": {"url_env": "NO_SUCH_VARIABLE"}, "on": ["succeeded"]},
    )  # fmt: skip
    told = Told(config)
    told.end(make_job("a"), Outcome(1, 1, 1, 7))
    assert sorted(told.undelivered()) == [("gone", "waiting", 1), ("ops", "waiting", 1)]
    with pytest.raises(SystemExit):
        main(["job", "status", "-c", str(config.file)])
    said = capsys.readouterr().err
    assert "ops could not be told yet (1 tries): a@2026-03-27 succeeded: http://127.0.0.1:9" in said
    assert "gone could not be told yet" in said and "NO_SUCH_VARIABLE" in said


def test_jobs_say_who_is_told_and_patterns_say_it_for_all(door: Door, tmp_path: Path) -> None:
    ways = [{"name": name, "webhook": {"url": f"{door.url}/{name}"}, "on": ["succeeded"]} for name in ("one", "two")]
    config = config_of(tmp_path, {**ways[0], "jobs": ["daily_*"]}, ways[1])
    outbox = Told(config).outbox
    job = make_job("daily_sales")
    named = [Job(**{**vars(job), "notify": notify}) for notify in (None, ("one",), ())]
    assert [outbox.targets("succeeded", one) for one in named] == [["one", "two"], ["one"], []]
    assert outbox.targets("succeeded", make_job("other")) == ["two"] and outbox.targets("failed", job) == []


def test_lineage_is_received_with_tables_and_columns(door: Door, tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    land(lake, event_rows(3))
    daily_, bad = "SELECT n, user FROM s.events", "SELECT CAST(user AS INTEGER) AS x FROM s.events"
    files = {"daily.sql": sql_file(daily_, output="r.daily"), "bad.sql": sql_file(bad, output="r.bad", retries=0)}
    jobs = JobsConfig(lineage=LineageConfig(url=door.url, namespace="shop"))
    config = make_project(tmp_path, files).model_copy(update={"jobs": jobs})
    project = load_project(config)
    history = History.open(config)
    courier = Courier(config, Outbox(history.engine, config.jobs), history.clock)
    workers = LocalWorkers(config)
    try:
        plan = Plan("x", "2026-03-27", [Node(project.jobs[name], DAY) for name in ("daily", "bad")])
        Runner(history, workers, config.jobs_dir / "logs", teller=courier).run(plan)
    finally:
        workers.close()
        courier.close(30.0)
    assert undelivered(history.engine) == [] and {path for path, _, _ in door.got} == {"/api/v1/lineage"}
    events = {(sent["job"]["name"], sent["eventType"]): sent for _, _, sent in door.got}
    assert set(events) == {("daily", "START"), ("daily", "COMPLETE"), ("bad", "START"), ("bad", "FAIL")}
    start, complete, fail = (events[key] for key in (("daily", "START"), ("daily", "COMPLETE"), ("bad", "FAIL")))
    assert start["run"]["runId"] == complete["run"]["runId"] != fail["run"]["runId"]
    for event in (start, complete):
        (read,), (made,) = event["inputs"], event["outputs"]
        assert (read["namespace"], read["name"], made["name"]) == ("shop", "s.events", "r.daily")
        fields = {field["name"]: field["type"] for field in read["facets"]["schema"]["fields"]}
        assert fields["n"] == "long" and fields["_offset"] == "long"
    columns = [(field["name"], field["type"]) for field in complete["outputs"][0]["facets"]["schema"]["fields"]]
    assert columns == [("n", "long"), ("user", "string")]
    assert complete["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 3
    assert "user-0" in fail["run"]["facets"]["errorMessage"]["message"]


def test_a_late_period_is_told_once(door: Door, tmp_path: Path) -> None:
    told = Told(config_of(tmp_path, {"name": "ops", "webhook": {"url": door.url}}))
    courier = Courier(told.config, told.outbox, told.clock)
    for _ in range(3):
        courier.late(make_job("a"), "2026-03-27")
    courier.close(20.0)
    assert [(got["event"], got["job"]) for _, _, got in door.got] == [("late", "a")]


def test_a_history_of_before_gets_its_new_tables(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    first = History.open(config)
    with first.engine.begin() as connection:
        for table in ("messages", "paused"):
            connection.exec_driver_sql(f"DROP TABLE eagleray_{table}")
    first.close()
    assert undelivered(History.open(config).engine) == []


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"name": "a"}, "one of webhook, slack and email"),
        ({"name": "a", "webhook": {}}, "one of url, url_file and url_env"),
        ({"name": "a", "webhook": {"url": "ftp://x"}}, "begins with http"),
        ({"name": "a", "email": {"host": "x", "sender": "a@b", "to": []}}, "to"),
        ({"name": "a", "email": {"host": "x", "sender": "a@b", "to": ["c@d"], "username": "u"}}, "username goes with"),
        ({"name": "a", "slack": {"url": "http://x"}, "on": ["never"]}, "on"),
    ],
)
def test_wrong_entries_are_refused(tmp_path: Path, entry: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        config_of(tmp_path, entry)


def test_no_secret_of_any_setting_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sasl").write_text("of-the-broker\n")
    (tmp_path / "aws").write_text("[default]\naws_access_key_id = AKIA\naws_secret_access_key = of-the-store\n")
    jobs = {
        "secrets": ["DECLARED"], "history": "postgresql://u:of-the-history@h/d",
        "lineage": {"url": "http://x", "token_env": "LINE"},
        "notify": [
            {"name": "a", "slack": {"url_file": "hook"}},
            {**mail(25, username="u", password_env="MAIL")},
        ],
    }  # fmt: skip
    (tmp_path / "hook").write_text("http://x/of-the-hook")
    settings = {
        "jobs": jobs,
        "log": {"brokers": ["h:9092"], "kafka": {"sasl": {"username": "u", "password_file": "sasl"}}},
        "lake": {
            "catalog": {"type": "rest", "credential": "id:of-the-catalog", "s3.secret-access-key": "of-s3"},
            "s3": {"credentials_file": "aws"}, "warehouse": "s3://b/w",
        },
    }  # fmt: skip
    (tmp_path / "eagleray.yaml").write_text(json.dumps(settings))
    environ = {
        "DECLARED": "of-the-job",
        "LINE": "of-lineage",
        "MAIL": "of-the-mail",
        "AWS_SESSION_TOKEN": "of-the-session",
    }
    config = load_config(tmp_path / "eagleray.yaml", environ={})
    assert set(config.secret_values(environ)) == {
        "of-the-job", "of-the-history", "of-lineage", "http://x/of-the-hook", "of-the-mail", "of-the-broker",
        "id:of-the-catalog", "of-s3", "of-the-store", "of-the-session",
    }  # fmt: skip
