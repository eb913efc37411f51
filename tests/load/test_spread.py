"""Spreads and plots say what was put into them."""

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.load.plot import Bars, Curves, draw
from tests.load.spread import Spread


@given(st.lists(st.floats(1e-5, 1e4), min_size=1), st.floats(0.01, 1))
def test_a_quantile_is_right_within_two_percent(values: list[float], share: float) -> None:
    spread = Spread()
    for value in values:
        spread.add(value)
    ordered = sorted(values)
    least = next(v for n, v in enumerate(ordered, 1) if n >= share * len(values))
    assert spread.quantile(share) == pytest.approx(least, rel=0.02)
    assert spread.largest == ordered[-1]
    assert spread.count == len(values)


def test_an_empty_spread_and_negative_values_are_no_trouble() -> None:
    spread = Spread()
    assert spread.summary() == {"count": 0, "p50": 0.0, "p90": 0.0, "p99": 0.0, "p99.9": 0.0, "max": 0.0}
    spread.add(-1.0)
    assert spread.quantile(0.5) == 0.0
    assert spread.summary()["negative"] == 1


@pytest.mark.parametrize(
    "panel",
    [
        Curves("<Delays>", "ms", "%", {"a & b": [(0.0, 0.0), (3.0, 1.0)], "point": [(1.0, 1.0)]}, marks=[1.5]),
        Curves("log", "ms", "%", {"a": [(0.001, 0.5), (1000.0, 1.0)]}, log=True),
        Curves("nothing", "ms", "%", {}),
        Bars("bars", "µs", {"gateway": 1.0, "other": 0.0}),
        Bars("no bars", "µs", {}),
    ],
    ids=lambda panel: panel.title,
)
def test_a_plot_is_well_formed_whatever_is_in_it(panel: Curves | Bars) -> None:
    root = ElementTree.fromstring(draw([panel, panel]))
    assert panel.title in "".join(root.itertext())
    assert "nan" not in draw([panel])
