"""Losses: records that were appended and are gone before anybody saw them."""

from gateway.log.journal import BEGIN, EPOCHS, JournalError, Record
from gateway.log.shelf import Shelf
from gateway.log.writer import Writer
from gateway.telemetry.faults import Faults


def let_go(shelf: Shelf, lost: list[Record], error: JournalError, faults: Faults) -> None:
    """Undoes what was done for these records in memory, and tells their owners."""
    writers: dict[int, Writer] = {}
    begun: list[Writer] = []
    for number, kind, _, _ in lost:
        if (writer := shelf.unsaved.get(number)) is None:
            continue  # its log was erased meanwhile
        writers[number] = writer
        writer.tail.next = writer.tail.head + 1
        writer.lost()
        if kind == BEGIN:
            begun.append(writer)
        elif kind == EPOCHS:
            writer.foreign = True
    for writer in begun:
        shelf.unsaved.remove(writer)
        writer.tail.writer = None
        shelf.let_go(writer.tail)
    for writer in writers.values():
        tell(writer, error, faults)


def tell(writer: Writer, error: JournalError, faults: Faults) -> None:
    """Tells a writer's owner of its loss. If the owner's code fails, only its own turn breaks."""
    try:
        if writer.owner is not None:
            writer.owner.lost(writer, error)
    except Exception as fault:
        faults.broke("turn", fault, **writer.about)
