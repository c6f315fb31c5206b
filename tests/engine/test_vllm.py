"""The stepping thread: many callers, one engine, and nobody left waiting when it ends."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from rft.engine.base import Completion, Sampling
from rft.errors import EngineError

PROMPT = [5, 6, 7]
LONG = {"ignore_eos": True}


def sampling(max_tokens: int = 8, seed: int = 0, **arguments: Any) -> Sampling:
    return Sampling(max_tokens=max_tokens, seed=seed, extra=LONG, **arguments)


# --- on the real engine --------------------------------------------------------------------------


@pytest.mark.engine
def test_two_threads_with_loops_of_their_own_share_the_engine(engine):
    answers: dict[int, list[Completion]] = {}

    def ask(thread: int) -> None:
        async def all_of_them() -> list[Completion]:
            asked = (engine.generate([thread, seed], sampling(seed + 1, seed)) for seed in range(30))
            return await asyncio.gather(*asked)

        answers[thread] = asyncio.run(all_of_them())

    threads = [threading.Thread(target=ask, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    for thread in (1, 2):
        assert [len(answer.token_ids) for answer in answers[thread]] == list(range(1, 31))
        assert all(len(answer.logprobs) == len(answer.token_ids) for answer in answers[thread])
        assert all(logprob <= 0 for answer in answers[thread] for logprob in answer.logprobs)


@pytest.mark.engine
async def test_an_answer_says_why_it_ended_and_keeps_its_end_token(engine, tiny_tokenizer):
    end = tiny_tokenizer.eos_token_id
    forced = Sampling(max_tokens=5, extra={"logit_bias": {end: 100.0}})
    ended, cut = await asyncio.gather(engine.generate(PROMPT, forced), engine.generate(PROMPT, sampling(5)))
    assert (ended.token_ids, ended.finish_reason) == ((end,), "stop")
    assert (len(cut.token_ids), cut.finish_reason) == (5, "length")


@pytest.mark.engine
async def test_text_that_ends_a_completion_keeps_one_logprob_for_each_token(engine, tiny_tokenizer):
    (letter,) = tiny_tokenizer("x")["input_ids"]
    forced = Sampling(max_tokens=9, stop=("xx",), extra={"logit_bias": {letter: 100.0}})
    answer = await engine.generate(PROMPT, forced)
    assert (answer.token_ids, answer.finish_reason) == ((letter, letter), "stop")
    assert len(answer.logprobs) == 2


@pytest.mark.engine
async def test_the_same_seeds_asked_as_one_batch_give_the_same_tokens(engine):
    async def batch() -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
        hold = engine.paused()
        hold.__enter__()
        asked = [
            asyncio.create_task(engine.generate(PROMPT, sampling(seed % 5 + 3, seed))) for seed in range(12)
        ]
        await asyncio.sleep(0)
        hold.__exit__(None, None, None)
        return [(answer.token_ids, answer.logprobs) for answer in await asyncio.gather(*asked)]

    with engine.paused():
        engine.weights_changed(engine.version)
    first = await batch()
    with engine.paused():  # the same caches to start from: none
        engine.weights_changed(engine.version)
    assert await batch() == first
    assert len({tokens for tokens, _ in first}) > 1


@pytest.mark.engine
async def test_a_request_in_flight_lives_through_new_weights_and_says_which_made_what(engine):
    norm = engine.model.model.norm.weight
    kept = norm.data.clone()
    old = engine.version
    try:
        stream = engine.stream({"prompt_token_ids": PROMPT}, _streaming(60))
        before = [tuple((await anext(stream)).outputs[0].token_ids) for _ in range(3)][-1]
        with engine.paused():
            norm.data.mul_(-1.0)
            engine.weights_changed(old + 1)
        after = [output async for output in stream][-1]
    finally:
        with engine.paused():
            norm.data.copy_(kept)
            engine.weights_changed(old + 1)
    sample = after.outputs[0]
    assert len(sample.token_ids) == 60
    assert tuple(sample.token_ids)[: len(before)] == before
    spans = [(int(span.version), span.start, span.end) for span in sample.weight_versions]
    assert [version for version, _, _ in spans] == [old, old + 1]
    assert spans[0][1] == 0 and spans[0][2] == spans[1][1] and spans[1][2] == 60
    assert len(before) <= spans[0][2] < 60


@pytest.mark.engine
async def test_cancelling_the_caller_aborts_the_request(engine):
    task = asyncio.create_task(engine.generate(PROMPT, sampling(500)))
    while not await asyncio.to_thread(engine.call, engine.llm.has_unfinished_requests):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not await asyncio.to_thread(engine.call, engine.llm.has_unfinished_requests)


@pytest.mark.engine
@pytest.mark.parametrize(
    ("prompt", "how", "said"),
    [
        ([5] * 4097, Sampling(max_tokens=1), "4096"),
        (PROMPT, Sampling(max_tokens=1, extra={"min_tokens": 7}), "min_tokens"),
        (PROMPT, Sampling(max_tokens=1, extra={"temprature": 1.0}), "temprature"),
        (PROMPT, Sampling(max_tokens=1, extra={"n": 2}), "n is set by the rollout"),
    ],
)
async def test_a_bad_request_is_its_callers_error_alone(engine, prompt, how, said):
    bad, good = await asyncio.gather(
        engine.generate(prompt, how), engine.generate(PROMPT, sampling(3)), return_exceptions=True
    )
    assert isinstance(bad, ValueError) and said in str(bad)
    assert isinstance(good, Completion) and len(good.token_ids) == 3
    assert not await asyncio.to_thread(engine.call, engine.llm.has_unfinished_requests)


@pytest.mark.engine
async def test_an_id_that_is_in_flight_cannot_be_used_again(engine):
    first = engine.stream({"prompt_token_ids": PROMPT}, _streaming(500), request_id="mine")
    await anext(first)
    with pytest.raises(ValueError, match="'mine' is in flight"):
        await anext(engine.stream({"prompt_token_ids": PROMPT}, _streaming(3), request_id="mine"))
    assert not (await anext(first)).finished
    await first.aclose()


@pytest.mark.engine
async def test_a_held_engine_takes_requests_and_starts_them_afterwards(engine):
    with engine.paused():
        task = asyncio.create_task(engine.generate(PROMPT, sampling(3)))
        await asyncio.sleep(0.1)
        assert not task.done()
    assert len((await task).token_ids) == 3


@pytest.mark.engine
def test_call_runs_on_the_stepping_thread_from_any_thread_and_from_itself(engine):
    def outer() -> tuple[str, str]:
        return threading.current_thread().name, engine.call(lambda: threading.current_thread().name)

    assert engine.call(outer) == ("rft-engine", "rft-engine")
    with pytest.raises(TimeoutError, match="its own"):  # not taken for the wait's own time-out
        engine.call(lambda: (_ for _ in ()).throw(TimeoutError("its own")))
    with pytest.raises(ZeroDivisionError):
        engine.call(lambda: 1 / 0)
    assert engine.error is None


def _streaming(max_tokens: int) -> Any:
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    return SamplingParams(
        max_tokens=max_tokens, seed=1, ignore_eos=True, output_kind=RequestOutputKind.CUMULATIVE
    )


# --- how it ends, on a stand-in for vLLM's core -----------------------------------------------------


class Core:
    """vLLM's synchronous engine as the stepping thread sees it; never finishes a request."""

    def __init__(self) -> None:
        self.waiting: list[str] = []
        self.step_may_run = threading.Event()
        self.step_may_run.set()
        self.stepping = threading.Event()
        self.dies = False
        self.shut: list[str] = []
        self.engine_core = SimpleNamespace(
            shutdown=self._part("all"),
            _finalizer=SimpleNamespace(detach=self._part("finalizer")),
            engine_core=SimpleNamespace(
                structured_output_manager=SimpleNamespace(clear_backend=self._part("grammars")),
                model_executor=SimpleNamespace(shutdown=self._part("executor")),
                scheduler=SimpleNamespace(shutdown=self._part("scheduler")),
            ),
        )

    def _part(self, name: str) -> Callable[[], None]:
        return lambda: self.shut.append(name)

    def set_weight_version(self, version: str) -> None:
        pass

    def has_unfinished_requests(self) -> bool:
        return bool(self.waiting)

    def add_request(self, request_id: str, *_: Any, **__: Any) -> None:
        self.waiting.append(request_id)

    def abort_request(self, request_ids: list[str]) -> None:
        self.waiting = [one for one in self.waiting if one not in request_ids]

    def step(self) -> list[Any]:
        self.stepping.set()
        self.step_may_run.wait(timeout=30)
        if self.dies:
            raise RuntimeError("the device is gone")
        time.sleep(0.001)
        return []


@pytest.fixture
def core() -> Core:
    return Core()


@pytest.fixture
def idle(core: Core) -> Iterator[Any]:
    from rft.engine.vllm import VLLMEngine

    engine = VLLMEngine(core)  # type: ignore[arg-type]  # a stand-in
    yield engine
    core.step_may_run.set()
    engine.close()


async def test_death_reaches_requests_running_and_queued_and_every_later_call(core, idle):
    core.step_may_run.clear()
    running = asyncio.create_task(idle.generate(PROMPT, sampling()))
    await asyncio.to_thread(core.stepping.wait, 30)
    queued = asyncio.create_task(idle.generate(PROMPT, sampling()))  # arrives while the last step runs
    calling = asyncio.create_task(asyncio.to_thread(idle.call, lambda: None))
    await asyncio.sleep(0.05)
    core.dies = True
    core.step_may_run.set()
    ends = await asyncio.wait_for(asyncio.gather(running, queued, calling, return_exceptions=True), 30)
    for end in ends:
        assert isinstance(end, EngineError) and "RuntimeError: the device is gone" in str(end)
    assert isinstance(idle.error, RuntimeError)
    with pytest.raises(EngineError, match="the device is gone"):
        await idle.generate(PROMPT, sampling())
    with pytest.raises(EngineError, match="the device is gone"), idle.paused():
        pass


async def test_closing_ends_requests_running_and_queued(core, idle):
    core.step_may_run.clear()
    running = asyncio.create_task(idle.generate(PROMPT, sampling()))
    await asyncio.to_thread(core.stepping.wait, 30)
    queued = asyncio.create_task(idle.generate(PROMPT, sampling()))
    await asyncio.sleep(0.05)
    closing = asyncio.create_task(asyncio.to_thread(idle.close))
    await asyncio.sleep(0.05)
    core.step_may_run.set()
    await closing
    for task in (running, queued):
        with pytest.raises(EngineError, match="closed"):
            await asyncio.wait_for(task, 30)
    with pytest.raises(EngineError, match="closed"):
        await idle.generate(PROMPT, sampling())
    shut = list(core.shut)
    idle.close()
    assert shut and core.shut == shut  # closing twice closes once


def test_what_engines_share_goes_with_the_last_of_them(monkeypatch):
    from rft.engine import vllm

    monkeypatch.setattr(vllm, "_open", set())
    cores = [Core(), Core()]
    engines = [vllm.VLLMEngine(core) for core in cores]  # type: ignore[arg-type]  # stand-ins
    engines[0].close()
    assert (cores[0].shut, cores[1].shut) == (["finalizer", "grammars", "executor", "scheduler"], [])
    engines[1].close()
    assert len(cores[0].shut) == 4 and cores[1].shut == ["all"]


async def test_a_wait_for_the_pause_that_is_given_up_does_not_hold_the_engine(core, idle, monkeypatch):
    core.step_may_run.clear()
    task = asyncio.create_task(idle.generate(PROMPT, sampling()))
    await asyncio.to_thread(core.stepping.wait, 30)

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(idle, "_check_alive", interrupted)
    with pytest.raises(KeyboardInterrupt), idle.paused():
        pass
    monkeypatch.undo()
    core.step_may_run.set()
    assert await asyncio.wait_for(asyncio.to_thread(idle.call, lambda: "goes on"), 30) == "goes on"
    task.cancel()


async def test_a_request_aborted_from_outside_ends_with_an_error(core, idle):
    stream = idle.stream({"prompt_token_ids": PROMPT}, _streaming(9), request_id="r")
    waiting = asyncio.create_task(anext(stream))
    await asyncio.to_thread(core.stepping.wait, 30)
    idle.abort("r")
    with pytest.raises(EngineError, match="request r was aborted"):
        await asyncio.wait_for(waiting, 30)
