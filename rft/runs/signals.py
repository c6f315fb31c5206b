"""Ctrl-C and SIGTERM as a request: the first asks for a stop after this step, the second stops at once."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """While the block runs, `requested` turns true at the first signal and a second raises KeyboardInterrupt.

        with StopRequest(view.note) as stop:
            for step in steps:
                ...
                if stop.requested:
                    break

    Outside the main thread, where Python takes no signals, nothing is installed and `requested` stays false.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.requested = False
        self._say = say
        # The handler interrupts the main thread anywhere, also halfway into writing to the terminal, where
        # writing again raises or blocks for ever. So it only hands the text over: `SimpleQueue.put` may be
        # called there.
        self._messages: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            threading.Thread(target=self._speak, name="rft-stop", daemon=True).start()
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal returned before
        self._messages.put(None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        self._messages.put("finishing the step, then checkpoint; again to stop now")

    def _speak(self) -> None:
        while (message := self._messages.get()) is not None:
            self._say(message)
