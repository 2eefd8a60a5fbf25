"""The time left of a sweep: schedules, the pace so far, and what is printed."""

import re
from datetime import datetime
from types import SimpleNamespace

import pytest

from xmbench import progress
from xmbench.progress import Progress, makespan, pace_of, time_left


@pytest.fixture
def clock(monkeypatch):
    """The monotonic clock, set by hand; the clock on the wall stands at 14:00 on a Sunday."""
    clock = SimpleNamespace(now=0.0, wall=datetime(2026, 11, 22, 14, 0))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(progress, "datetime", SimpleNamespace(now=lambda: clock.wall))
    return clock


def groups(*keys, runs=1):
    run = SimpleNamespace(method="mrl", dataset="toy", noise="symmetric@0.4", seed=1)
    return [[SimpleNamespace(fit_key=key, run=run)] * runs for key in keys]


def finish(shown, group, status="ok"):
    for cell in group:
        shown("id", status, cell)


# schedules


@pytest.mark.parametrize(
    ("waiting", "jobs", "running", "seconds"),
    [
        ([5, 5, 5, 5], 1, [], 20),
        ([5, 5, 5, 5], 2, [], 10),
        ([1, 1, 1, 9], 2, [], 10),  # the long one begins after one second, when the sum by two says six
        ([9, 1, 1, 1], 2, [], 9),
        ([4], 2, [10, 3], 10),
        ([8], 2, [10, 3], 11),
        ([], 2, [100], 100),
        ([], 4, [], 0),
        ([2, 2], 8, [1], 2),
    ],
)
def test_a_schedule_gives_each_slot_that_is_free_the_next_job(waiting, jobs, running, seconds):
    assert makespan(waiting, jobs, running) == seconds


@pytest.mark.parametrize(
    ("ended", "running", "trust", "pace"),
    [
        ((0, 0), [], 100, 1),
        ((100, 300), [], 100, 2),  # half of what was seen
        ((900, 2700), [], 100, 2.8),
        ((100, 300), [(100, 190)], 100, 2),  # in time, at this pace
        ((100, 300), [(100, 500)], 100, 3),  # (100 + 300 + 500) / (100 + 100 + 100)
        ((0, 0), [(100, 50)], 0, None),
        ((2, 60), [], 0, 30),
    ],
)
def test_the_pace_moves_from_one_to_what_is_seen(ended, running, trust, pace):
    assert pace_of(ended, running, trust) == pace


# a sweep


def test_one_long_run_that_is_left_is_not_halved_by_two_slots(clock):
    sweep = groups("long", "short")
    shown = Progress(sweep, {"long": 1000.0, "short": 100.0}, jobs=2)
    assert shown.seconds_left() == 1000
    clock.now = 100
    finish(shown, sweep[1])
    assert shown.seconds_left() == 900


def test_a_sweep_that_is_slower_than_expected_takes_longer(clock):
    sweep = groups(*"abcd")
    shown = Progress(sweep, dict.fromkeys("abcd", 100.0))
    clock.now = 300
    finish(shown, sweep[0])
    assert shown.seconds_left() == 600, "pace (100 + 300) / (100 + 100), three of 100 s to go"
    clock.now = 350
    assert shown.seconds_left() == 550


def test_a_group_that_is_overdue_is_expected_to_take_some_more(clock):
    shown = Progress(groups("a"), {"a": 100.0})
    clock.now = 400
    assert shown.seconds_left() == 100, "a quarter of what it took, at a pace of (100 + 400) / (100 + 100)"


def test_what_failed_says_nothing_about_the_pace(clock):
    sweep = groups(*"abc")
    shown = Progress(sweep, dict.fromkeys("abc", 100.0))
    clock.now = 1
    finish(shown, sweep[0], "failed")
    assert shown.seconds_left() == 200


def test_a_group_ends_with_its_last_run(clock):
    sweep = groups("a", "b", runs=3)
    shown = Progress(sweep, {"a": 100.0, "b": 100.0})
    clock.now = 60
    for _ in range(2):
        shown("id", "ok", sweep[0][0])
    assert shown.seconds_left() == 140
    clock.now = 100
    shown("id", "ok", sweep[0][0])
    assert shown.seconds_left() == 100


def test_groups_may_end_out_of_turn(clock):
    sweep = groups(*"abcd")
    shown = Progress(sweep, dict.fromkeys("abcd", 100.0), jobs=2)
    clock.now = 100
    for number in (3, 0, 2, 1):
        finish(shown, sweep[number])
    assert shown.seconds_left() == 0


def test_a_group_of_which_nothing_is_known_counts_as_the_median_of_the_others(clock):
    assert Progress(groups(*"abcd"), {"a": 1.0, "b": 10.0, "c": 300.0}).seconds_left() == 321


def test_without_expectations_the_time_left_is_known_once_a_group_has_ended(clock, capsys):
    sweep = groups(*"abc")
    shown = Progress(sweep, {})
    assert shown.seconds_left() is None
    clock.now = 50
    finish(shown, sweep[0])
    assert shown.seconds_left() == 100
    assert time_left(None) == "time left unknown"


def test_a_clock_on_the_wall_that_jumps_moves_the_printed_end_alone(clock, capsys):
    sweep = groups(*"abc")
    shown = Progress(sweep, dict.fromkeys("abc", 600.0))
    jumps = [(datetime(2026, 11, 22, 14, 0), 20, "14:20"), (datetime(1999, 1, 1, 23, 50), 10, "Sat 00:00")]
    for group, (wall, minutes, end) in zip(sweep, jumps, strict=False):
        clock.now += 600
        clock.wall = wall
        finish(shown, group)
        assert capsys.readouterr().err.endswith(f"; about {minutes} min left, until {end}\n")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (42, "about 42 s left"),
        (1200, "about 20 min left, until 14:20"),
        (36_000, "about 10 h 0 min left, until Mon 00:00"),
        (2 * 86400, "about 48 h 0 min left, until Tue 14:00"),
        (10 * 86400, "about 240 h 0 min left, until Wed 02 Dec 2026"),
        (1e15, "about 277777777777 h 47 min left"),
    ],
)
def test_the_end_is_given_as_a_clock_time(clock, seconds, text):
    assert time_left(seconds) == text


def test_each_run_has_a_line(clock, capsys):
    sweep = groups("a", "b")
    with Progress(sweep, {"a": 5.0, "b": 5.0}) as shown:
        clock.now = 5
        finish(shown, sweep[0])
        finish(shown, sweep[1], "failed")
    first, second = capsys.readouterr().err.splitlines()
    assert first == "[1/2] mrl on toy, symmetric@0.4, seed 1: ok; about 5 s left"
    assert re.fullmatch(r"\[2/2\] .*: failed; about 0 s left", second)


def test_the_time_left_of_many_groups_is_worked_out_once_a_second(clock, capsys, monkeypatch):
    keys = [str(number) for number in range(2000)]
    sweep = groups(*keys)
    shown = Progress(sweep, dict.fromkeys(keys, 1.0))
    asked = []
    monkeypatch.setattr(shown, "seconds_left", lambda: asked.append(clock.now) or 1.0)
    for number in range(30):
        clock.now = 0.1 * number
        finish(shown, sweep[number])
    assert len(asked) == 3
