"""Frames are kept no longer than somebody reads the log that they are of."""

from gateway.reading.frames import Frame, Frames


def test_nothing_is_kept_of_a_log_that_nobody_reads() -> None:
    frames = Frames()
    for number in range(6):
        frames.keep(f"log {number % 2}", number, Frame(b"frame", 1, number))
    frames.drop("log 0")
    frames.drop("log 0")
    frames.drop("a log of which nothing is kept")
    assert [number for number in range(6) if frames.get(number) is not None] == [1, 3, 5]
    assert frames.size == 3 * len(b"frame")
    frames.drop("log 1")
    assert frames.size == 0
