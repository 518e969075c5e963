"""Which life of a node this is: every case of the one rule."""

from __future__ import annotations

import pytest

from electorate.core.identity import Identity, Start, Verdict, judge

KNOWN = Start(5, 50)


@pytest.mark.parametrize(
    ("identity", "verdict"),
    [
        (Identity(Start(5, 50)), Verdict.WELCOME),
        (Identity(Start(5, 50), Start(4, 40)), Verdict.WELCOME),
        (Identity(Start(6, 60), Start(5, 50)), Verdict.WELCOME),
        (Identity(Start(9, 90), Start(5, 50)), Verdict.WELCOME),
        (Identity(Start(9, 90), Start(5, 50), rejoining=True), Verdict.WELCOME),
        (Identity(Start(6, 60)), Verdict.SHOW),
        (Identity(Start(9, 90), Start(8, 80)), Verdict.SHOW),
        (Identity(Start(9, 90), Start(3, 30)), Verdict.SHOW),
        (Identity(Start(9, 90), Start(8, 80), rejoining=True), Verdict.SHOW),
        (Identity(Start(6, 60), Start(5, 51)), Verdict.LOST),
        (Identity(Start(9, 90), Start(5, 51), rejoining=True), Verdict.LOST),
        (Identity(Start(5, 51)), Verdict.LOST),
        (Identity(Start(5, 51), Start(5, 50)), Verdict.LOST),
        (Identity(Start(5, 51), rejoining=True), Verdict.LOST),
        (Identity(Start(4, 40)), Verdict.LOST),
        (Identity(Start(4, 40), Start(5, 50)), Verdict.LOST),
        (Identity(Start(1, 10), rejoining=True), Verdict.LOST),
    ],
)
def test_who_descends_from_the_known_start_is_welcome(identity: Identity, verdict: Verdict) -> None:
    assert judge(KNOWN, False, identity) is verdict


@pytest.mark.parametrize("start", [Start(1, 10), Start(9, 90)])
def test_who_was_never_met_is_welcome(start: Start) -> None:
    assert judge(None, False, Identity(start)) is Verdict.WELCOME


@pytest.mark.parametrize("known", [None, KNOWN])
def test_who_is_gone_for_good_must_rejoin_and_is_judged_then_as_any(known: Start | None) -> None:
    for identity in (Identity(KNOWN), Identity(Start(6, 60), KNOWN)):
        assert judge(known, True, identity) is Verdict.GONE
        assert judge(known, True, identity._replace(rejoining=True)) is Verdict.WELCOME
    rejoining = judge(known, True, Identity(Start(6, 60), Start(5, 51), rejoining=True))
    assert rejoining is (Verdict.LOST if known else Verdict.WELCOME)


def test_an_observer_takes_any_later_life_and_no_earlier_one() -> None:
    """It may have been away when a store was replaced, and nothing rests on what it believes."""
    assert judge(KNOWN, False, Identity(Start(6, 60), Start(4, 41)), observer=True) is Verdict.WELCOME
    assert judge(KNOWN, False, Identity(Start(5, 51)), observer=True) is Verdict.LOST
    assert judge(KNOWN, True, Identity(Start(6, 60)), observer=True) is Verdict.GONE
