"""Who floods the native edge is silenced, then cut off; its network is let on a few at a time."""

from typing import Any

from server.native.police import LET_ON_A_SECOND, SILENT_MAX, SILENT_S, Police


class Held:
    """A connection as the police see it."""

    def __init__(self) -> None:
        self.did: list[str] = []

    def hold(self) -> None:
        self.did.append("held")

    def let_on(self) -> None:
        self.did.append("let on")

    def abort(self) -> None:
        self.did.append("aborted")


def test_a_flooder_is_silenced_then_cut_off_and_its_network_held_back() -> None:
    police: Any = Police()
    flooder, neighbour = Held(), Held()
    assert police.came(flooder, "10.1.2.3", 100.0) is None
    police.flooded(flooder, "10.1.2.3", 100.0)
    assert (flooder.did, police.ended) == (["held"], 1)
    assert police.came(neighbour, "10.1.2.4", 100.0) is None
    assert neighbour.did == []
    again = [Held() for _ in range(40)]
    assert {police.came(each, "10.1.2.3", 100.0) for each in again} == {16}
    police.tick(100.0 + SILENT_S / 2)
    assert flooder.did == ["held"]
    police.tick(100.0 + SILENT_S)
    assert flooder.did == ["held", "aborted"]
    on = sum("let on" in each.did for each in again)
    assert 0 < on <= 2 * LET_ON_A_SECOND
    for each in again:
        police.left(each)
    assert police.held == 0
    police.tick(200.0)
    assert not police.holds("10.1.2.3", 200.0)
    assert police.came(Held(), "10.1.2.3", 200.0) is None


def test_nobody_is_held_for_good_and_those_held_are_bounded() -> None:
    police: Any = Police()
    police.flooded(Held(), "::1", 0.0)
    held = [Held() for _ in range(SILENT_MAX + 1)]
    for each in held:
        police.came(each, "::2", 0.0)  # of the same /64
    assert held[0].did == ["held", "aborted"]
    police.tick(61.0)
    assert all(each.did[-1] in {"let on", "aborted"} for each in held)
