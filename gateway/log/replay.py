"""Replay: what each kind of record does to a stretch, both when it is shown and when it is read again."""

from typing import Any

from gateway.log.journal import BEGIN, CUT, END, EPOCHS, MORE, STATE, Record
from gateway.log.stretch import Stretch


def take(stretch: Stretch, kind: int, sequence: int, payload: Any) -> None:
    """Applies a record, other than a beginning, to its stretch. An event must be the stretch's next one."""
    if kind == STATE:
        stretch.state = payload
    elif kind == MORE:
        stretch.state = stretch.state[:sequence] + payload
    elif kind == END:
        stretch.ended = payload
    elif kind == EPOCHS:
        stretch.epochs = payload
    elif kind == CUT:
        if sequence < stretch.last:
            stretch.cut(sequence)
    else:
        stretch.apply(kind, payload)


def replay(found: dict[int, Stretch], record: Record, batch: int) -> None:
    """Applies a record that is read again from its batch to `found`, the stretches by number. Events that a stretch has
    already are skipped. Raises `ValueError` if an event is missing.
    """
    number, kind, sequence, payload = record
    if kind == BEGIN:
        if number not in found:
            key, epochs, turn, state, mark, *_ = payload
            found[number] = Stretch(number, key, epochs, sequence, turn, state, mark)
            found[number].unsaved_from = batch
        return
    if (stretch := found.get(number)) is None:
        return  # saved and removed by retention, while another stretch in the batch still ran
    if kind in _NO_EVENTS or sequence == stretch.last + 1:
        take(stretch, kind, sequence, payload)
    elif sequence > stretch.last:
        raise ValueError(f"{stretch!r} has a gap before {sequence}")
    stretch.unsaved_from = stretch.unsaved_from or batch


_NO_EVENTS = {STATE, MORE, END, EPOCHS, CUT}
