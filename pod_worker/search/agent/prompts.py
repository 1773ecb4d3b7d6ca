"""The messages of an agent's turn: the task, then the turns so far, bounded."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pod_worker.core.research.completion import ChatMessage
from pod_worker.core.run import Json
from pod_worker.search.agent.turns import ActionKind, AgentTurn
from pod_worker.search.prompts import CONTRACT, proposal_parts

HISTORY_BYTES = 80_000  # of the turns; the oldest are left out
_CONTENT_SHOWN = 2_000  # characters of a file that was written again later
_TOOLS = """You work in turns. Each answer is one action, a JSON object:
- write: `content` becomes the file `path`, a plain name without folders.
- run: the Python file `path` is executed under the rules above, in a fresh folder that has your files. You get how
  it ended and the beginning and the end of its output.
- read: you get more of the last output, from character `offset` on.
- finish: the file `path` becomes the program of the experiment, which is executed again and scored. It must be
  complete: your other files are not there then. `plan` says in at most five sentences what it does and why,
  `change` is a label of at most eight words.
`thought` has your reason in one sentence. Fields that an action does not need are empty texts, and `offset` 0."""


def turn_messages(facts: dict[str, Json], turns: Sequence[AgentTurn], limit: int) -> tuple[ChatMessage, ...]:
    task = "\n\n".join([*proposal_parts(str(facts["operation"]), facts), f"You have {limit} turns."])
    messages = [ChatMessage("system", f"{CONTRACT}\n\n{_TOOLS}"), ChatMessage("user", task)]
    pairs = [_pair(turns, number, limit) for number in range(len(turns))]
    for answer, observation in _newest(pairs):
        messages += [ChatMessage("assistant", answer), ChatMessage("user", observation)]
    return tuple(messages)


def _pair(turns: Sequence[AgentTurn], number: int, limit: int) -> tuple[str, str]:
    turn, left = turns[number], limit - number - 1
    hint = " It must be `finish`." if left == 1 else ""
    return _answer(turns, number), f"{turn.observation}\n\n{left} turns are left.{hint}"


def _answer(turns: Sequence[AgentTurn], number: int) -> str:
    """The action as given; of a file that was written again, the beginning."""
    action = turns[number].action
    content = action.content
    is_replaced = any(
        later.action.action is ActionKind.WRITE and later.action.path == action.path
        for later in turns[number + 1 :]
    )
    if is_replaced and len(content) > _CONTENT_SHOWN:
        content = f"{content[:_CONTENT_SHOWN]}\n[written again later]"
    fields = {
        "thought": action.thought, "action": action.action.value, "path": action.path, "content": content,
        "offset": action.offset, "plan": action.plan, "change": action.change,
    }  # fmt: skip
    return json.dumps(fields, ensure_ascii=False)


def _newest(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    kept: list[tuple[str, str]] = []
    left = HISTORY_BYTES
    for pair in reversed(pairs):
        left -= sum(len(text.encode("utf-8", "replace")) for text in pair)
        if left < 0 and kept:
            break
        kept.append(pair)
    return kept[::-1]
