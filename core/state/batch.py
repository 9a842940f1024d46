"""What one commit holds. Pure data: the kernel fills it, the store writes it in one atomic step."""

import msgspec


class Batch(msgspec.Struct):
    """The state changes and events of one or many inputs, committed together or not at all.

    Within a batch each (table, field) has one last word: it is in `puts` or in `deletes`, never in both.
    """

    number: int  # rises by 1 with every batch; the store applies each number once
    seq: int  # of the last event here, or of the last event ever where there is none here
    events: list[bytes]  # JSON objects; their seqs rise, the last one's is `seq`
    puts: list[tuple[str, str, bytes]]  # (table, field, JSON)
    deletes: list[tuple[str, str]]  # (table, field)
    appends: list[tuple[str, bytes]]  # (stream, JSON)
