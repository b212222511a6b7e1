"""Preferences without a prompt of their own: two whole conversations that differ in their last answer."""

from __future__ import annotations

from tunery.data import cells, conversations
from tunery.errors import DataError
from tunery.protocols import Example, Format, Message, Row


class Transcripts(Format):
    r"""``{"chosen": "\n\nHuman: Hi\n\nAssistant: Hello!", "rejected": "\n\nHuman: Hi\n\nAssistant: What?"}``.

    Lists of messages do as well. The prompt is what both have in common, the answer the last turn of ``chosen``.
    """

    summary = "two conversations, one chosen and one rejected (transcripts or messages); the chosen one is learnt"
    columns = ("chosen", "rejected")
    optional = ("contains",)
    targets = ("rejected",)
    task = "instruct"
    note = "rows of preferences: task instruct learns the chosen answers and does not look at the rejected ones"

    def example(self, row: Row, need_target: bool = True) -> Example:
        """Raises DataError: no conversation, no answer at its end, another first question in the two, no difference."""
        messages = _read(row, "chosen")
        if need_target:
            conversations.check_answered(row, messages)
        if need_target or not cells.absent(row, "rejected"):
            other = _read(row, "rejected")
            if other == messages:
                raise DataError("the chosen and the rejected conversation are the same", "remove the row", row.where)
            if other[0] != messages[0]:
                hint = "give pairs of conversations that begin alike"
                raise DataError("'chosen' and 'rejected' do not have the same beginning", hint, row.where)
        return conversations.example(row, messages)


def _read(row: Row, column: str) -> tuple[Message, ...]:
    if conversations.as_list(row.values.get(column)) is not None:
        return conversations.messages(row, column)
    return conversations.transcript(row, column, cells.text(row, column))
