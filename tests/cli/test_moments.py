"""Times as people write them: of the day, by name, from now."""

from __future__ import annotations

import json
from datetime import datetime

import pytest

from tests.cli.conftest import AtHome


def test_a_time_of_day_is_the_next_one_and_the_end_comes_after_it(at_home: AtHome) -> None:
    found = at_home.json("submit", "-c", "1", "--opens", "22:00", "--closes", "6:30")["execution"]
    opens, closes, now = (
        datetime.fromisoformat(found[name]) for name in ("opens_at", "closes_at", "submitted_at")
    )
    assert (opens.astimezone().hour, opens.astimezone().minute) == (22, 0)
    assert (closes.astimezone().hour, closes.astimezone().minute) == (6, 30)
    assert 0 < (opens - now).total_seconds() <= 25 * 3600  # a day may have 25 hours
    assert 0 < (closes - opens).total_seconds() < 24 * 3600
    assert b"'25:00' is not a valid time" in at_home("submit", "-c", "1", "--opens", "25:00").stderr


@pytest.mark.parametrize(
    "name", ["@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually"]
)
def test_schedules_take_the_names_that_cron_has(at_home: AtHome, name: str) -> None:
    request = {"schema_version": "1.0", "runtime": "python", "code": "1"}
    (at_home.cwd / "work.json").write_text(json.dumps({"kind": "job", "request": request}))
    found = at_home.json("schedule", "add", "s", name, "work.json")["schedule"]
    due = datetime.fromisoformat(found["next_at"])
    assert (found["cron"], due.minute, due.second) == (name, 0, 0)
    assert due.hour == 0 or name == "@hourly"
    assert due.day == 1 or name not in ("@monthly", "@yearly", "@annually")
    assert due.weekday() == 6 or name != "@weekly"
