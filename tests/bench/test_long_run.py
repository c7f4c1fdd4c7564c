"""The figures of the long run's bench, worked out from looks of known growth."""

import pytest

from tests.bench.long_run import Look, summary


def looks(step_ms, memory_mb, yardstick_s):
    """A hundred looks, 10 s apart; each argument is a function of the share of the time that has gone."""
    found, step = [], 0.0
    for number in range(1, 101):
        gone = number / 100
        step += 10_000 / step_ms(gone)
        found.append(Look(10.0 * number, round(step), memory_mb(gone), 10.0 * number, yardstick_s(gone)))
    return found


def test_growth_and_slowdown_are_of_the_last_tenth_over_the_second():
    late = 0.85
    slower = looks(lambda t: 11 if t > late else 10, lambda t: 130 if t > late else 100, lambda t: 0.03)
    figures = summary(slower)
    assert figures["growth_mb"] == 30 and figures["slowdown_yardstick"] == 0
    assert figures["slowdown"] == pytest.approx(0.1, abs=0.002) == figures["slowdown_corrected"]


def test_what_the_machine_alone_got_slower_is_taken_out():
    busy = looks(lambda t: 10 if t < 0.5 else 12, lambda t: 100, lambda t: 0.030 if t < 0.5 else 0.036)
    figures = summary(busy)
    assert figures["slowdown_cpu"] == pytest.approx(0.2, abs=0.002)
    assert figures["slowdown_corrected"] == pytest.approx(0, abs=0.002)
