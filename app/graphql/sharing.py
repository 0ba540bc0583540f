"""Executes a subscription's event once for all who ask the same of it, and keeps the bytes of the answer.

What is the same: the document, the operation, its variables, and who asks; but for the cursor that each began from. Answers
are kept until newer ones need their room. An event before which batches were dropped is answered for its subscriber alone,
since the number is in the answer.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from contextlib import nullcontext
from functools import partial
from typing import Any, cast

import msgspec
from graphql import ExecutionResult, FieldNode, VariableNode, print_ast
from strawberry.extensions.runner import SchemaExtensionsRunner
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext
from strawberry.utils.await_maybe import AwaitableOrValue, await_maybe

MOST_BYTES = 32 * 1024 * 1024  # of answers that are kept
MOST_ANSWERS = 1_024


class SharedEvent:
    """An event of a subscription; `identity` tells it from all others, None where it is for one subscriber alone."""

    @property
    def identity(self) -> Hashable:
        raise NotImplementedError


class Answers:
    """The newest answers of this process, each executed once; `data` in them is JSON already."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, asyncio.Task[ExecutionResult]] = OrderedDict()
        self._bytes = 0

    def find(
        self, key: Hashable, execute: Callable[[], Awaitable[ExecutionResult]]
    ) -> ExecutionResult | Awaitable[ExecutionResult]:
        """The answer, at once where it's there; else whoever is first has it executed for all."""
        task = self._kept.get(key)
        if task is None:
            # In a task of its own: the subscriber who came first may hang up while others wait for it.
            task = self._kept[key] = asyncio.ensure_future(_encode(execute()))
            task.add_done_callback(partial(self._weigh, key))
        return task.result() if task.done() else asyncio.shield(task)

    def _weigh(self, key: Hashable, task: asyncio.Task[ExecutionResult]) -> None:
        if self._kept.get(key) is not task:
            return
        if task.cancelled() or task.exception() is not None or task.result().errors:
            # Whoever waits has it; whoever comes later may have better luck.
            del self._kept[key]
            return
        self._bytes += _measure(task)
        while self._bytes > MOST_BYTES or len(self._kept) > MOST_ANSWERS:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= _measure(oldest) if oldest.done() else 0


def _measure(task: asyncio.Task[ExecutionResult]) -> int:
    return len(bytes(cast("msgspec.Raw", task.result().data)))


async def _encode(executing: Awaitable[ExecutionResult]) -> ExecutionResult:
    result = await executing
    if result.data is not None:
        # What writes messages takes either, and copies what is JSON already.
        result.data = cast("dict[str, Any]", msgspec.Raw(msgspec.json.encode(result.data)))
    return result


class SharingExecutor(StrawberryGraphQLCoreExecutionContext):
    """graphql-core's, which looks for the answer to a shared event before it executes it."""

    _question: Hashable = None

    def build_per_event_executor(self, payload: Any) -> Any:
        identity = payload.identity if isinstance(payload, SharedEvent) else None
        if identity is None:
            return self._prepare(payload)
        if self._question is None:
            self._question = self._describe()
        return _Sharer(self, payload, (identity, self._question))

    def execute_event(self, payload: Any) -> AwaitableOrValue[Any]:
        """The event's result, executed anew."""
        return self._prepare(payload).execute_operation(serially=False)

    def find_answers(self) -> Answers:
        answers: Answers = self.context_value.rooms.answers
        return answers

    def _prepare(self, payload: Any) -> SharingExecutor:
        executor = cast("SharingExecutor", super().build_per_event_executor(payload))
        # What was loaded for one event is stale at the next.
        executor.context_value = self.context_value.begin_operation()
        return executor

    def _describe(self) -> Hashable:
        """What is asked, and by whom, in a form that is the same for all who ask the same."""
        fragments = sorted(print_ast(fragment) for fragment in self.fragment_definitions.values())
        text = "\n".join([print_ast(self.operation), *fragments])
        variables = dict(self.variable_values.coerced)
        for field in self.operation.selection_set.selections:
            for argument in (field.arguments or ()) if isinstance(field, FieldNode) else ():
                if argument.name.value == "after" and isinstance(argument.value, VariableNode):
                    name = argument.value.name.value
                    if len(re.findall(rf"\${name}\b", text)) == 2:
                        variables.pop(name, None)
        return text, msgspec.json.encode(variables, enc_hook=repr, order="sorted"), self.context_value.principal


class SharedResultsRunner(SchemaExtensionsRunner):
    """Strawberry's, which leaves out of an answer's delivery what an extension does with errors, of which it has none.

    Asked for each subscriber, the extensions took a quarter of a delivery's time.
    """

    def on_stream_result(self, result: Any) -> Any:
        return _NOTHING if _is_shared(result) else super().on_stream_result(result)


_NOTHING = nullcontext()


def _is_shared(result: object) -> bool:
    return isinstance(getattr(result, "data", None), msgspec.Raw) and not getattr(result, "errors", None)


class _Sharer:
    """Stands for the executor of an event, which most subscribers needn't have made."""

    __slots__ = ("_executor", "_key", "_payload")

    def __init__(self, executor: SharingExecutor, payload: SharedEvent, key: Hashable) -> None:
        self._executor = executor
        self._payload = payload
        self._key = key

    def execute_operation(self, serially: bool) -> ExecutionResult | Awaitable[ExecutionResult]:  # noqa: ARG002 - as graphql-core calls it
        return self._executor.find_answers().find(self._key, self._execute)

    async def _execute(self) -> ExecutionResult:
        return cast("ExecutionResult", await await_maybe(self._executor.execute_event(self._payload)))
