"""The watch over leases finds what must never happen, and nothing else."""

from electorate.cli.safety import Ledger


def led(*leases: tuple[str, int, float | None, float]) -> list[str]:
    """The violations in leases of (node, term, until, at)."""
    ledger = Ledger()
    for node, term, until, at in leases:
        ledger.lease(node, "main", term, until, at)
    return ledger.violations()


def test_leaderships_one_after_the_other_are_fine() -> None:
    assert led(("a", 1, 1.5, 1.0), ("a", 1, 1.6, 1.1), ("b", 2, 2.5, 1.6)) == []


def test_two_leases_that_overlap_are_two_leaders() -> None:
    [violation] = led(("a", 1, 1.5, 1.0), ("a", 1, 1.6, 1.1), ("b", 2, 2.5, 1.55))
    assert violation.startswith("two leaders at once: a led main in term 1")


def test_a_lease_that_was_given_up_excludes_nobody() -> None:
    assert led(("a", 1, 1.5, 1.0), ("a", 1, None, 1.2), ("b", 2, 2.5, 1.2)) == []


def test_news_of_an_end_may_come_after_news_of_the_next_beginning() -> None:
    assert led(("a", 1, 1.5, 1.0), ("b", 2, 2.5, 1.2), ("a", 1, None, 1.1)) == []


def test_a_lease_given_up_after_it_had_run_out_does_not_get_longer() -> None:
    assert led(("a", 1, 1.5, 1.0), ("b", 2, 2.5, 1.6), ("a", 1, None, 9.0)) == []


def test_the_dead_claim_nothing() -> None:
    ledger = Ledger()
    ledger.lease("a", "main", 1, 1.5, 1.0)
    ledger.died("a", 1.1)
    ledger.lease("b", "main", 2, 2.5, 1.2)
    assert ledger.violations() == []
    ledger.lease("a", "main", 3, 2.5, 1.3)
    assert len(ledger.violations()) == 1


def test_a_long_lease_is_compared_with_all_that_it_covers() -> None:
    violations = led(("a", 1, 9.0, 1.0), ("b", 2, 2.5, 2.0), ("c", 3, 3.5, 3.0))
    assert len(violations) == 2


def test_terms_must_grow() -> None:
    [violation] = led(("a", 2, 1.5, 1.0), ("b", 2, 2.5, 2.0))
    assert violation.startswith("the term did not grow: a led main in term 2")


def test_a_leadership_does_not_come_back_to_life() -> None:
    [violation] = led(("a", 1, 1.5, 1.0), ("a", 1, 2.5, 2.0))
    assert violation.startswith("the term did not grow")


def test_elections_do_not_exclude_each_other() -> None:
    ledger = Ledger()
    ledger.lease("a", "main", 1, 1.5, 1.0)
    ledger.lease("b", "other", 1, 1.5, 1.0)
    assert ledger.violations() == []


def test_what_has_only_just_begun_can_be_left_out() -> None:
    ledger = Ledger()
    ledger.lease("a", "main", 1, 1.5, 1.0)
    ledger.lease("b", "main", 2, 2.5, 1.2)
    assert ledger.violations(before=1.1) == []
    assert len(ledger.violations(before=1.3)) == 1
