"""Who answers what is on no network, until there is a forwarder: nobody."""

from __future__ import annotations

from ...netlib.naming import View
from .. import message
from ..message import SERVFAIL, Question


class Outside:
    def cached(self, sandbox: str, view: View, question: Question, *, tcp: bool) -> bytes | None:
        return message.reply(question, SERVFAIL)

    async def ask(self, sandbox: str, view: View, question: Question, *, tcp: bool) -> bytes:
        return message.reply(question, SERVFAIL)
