"""The routes and handlers under test, without a broker and without waiting: `pip install pytest`, then `pytest`."""

from bridge.testing import Bridge


def test_an_order_that_comes_twice_is_placed_once(jobbridge: Bridge) -> None:
    with jobbridge.recording() as seen:
        jobbridge.publish("orders", {"id": 7, "amount": 12.5}, correlation_id="order-7", times=2)
    assert (seen.created, seen.duplicates) == (1, 1)
    assert jobbridge.run_until_idle().succeeded == 1


def test_an_order_without_its_amount_is_a_dead_letter(jobbridge: Bridge) -> None:
    jobbridge.publish("orders", {"id": 8}, correlation_id="order-8")
    jobbridge.run_until_idle()
    assert [letter["reason"] for letter in jobbridge.dead_letters] == ["invalid-body"]
