"""One zoomer, many callers: threads, asyncio, fork, errors of one question, and what is given back.

    VZOOM_ASKS=200 pytest tests/test_threads.py -k "threads or flat"

runs the long variant: 16 threads with 200 questions each, and a thousand questions in one process.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import vzoom
from vzoom.engine import EngineSize
from vzoom.models import FeatureCache
from vzoom.synthetic import FAMILIES, ask_questions, make_video, render
from vzoom.synthetic.questions import config_for
from vzoom.types import Clip, Event, Finished, StopReason, TextDelta, TurnOpened
from vzoom.video import ClipCache, VideoError
from vzoom.zoomer import _make_engine

ASKS = int(os.environ.get("VZOOM_ASKS", "4"))
THREADS = 16
Question = tuple[Path, str]


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> list[Question]:
    folder = tmp_path_factory.mktemp("videos")
    found = []
    for seed in range(4):
        made = make_video(seed, replace(config_for("which"), duration_seconds=32.0, num_scenes=(3, 3)))
        render(made, folder / f"{seed}.mp4")
        for family in FAMILIES:
            with contextlib.suppress(ValueError):  # not every video holds a question of every family
                found.append((folder / f"{seed}.mp4", ask_questions(made, family, seed).text))
    return found


@pytest.fixture
def zoomer() -> vzoom.Zoomer:
    return vzoom.load("embedded", device="cpu", max_sessions=8)


def wait_until(holds: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.005)
    return holds()


def pages_are_back(zoomer: vzoom.Zoomer) -> bool:
    engine = zoomer._engine_thread._engine
    return engine is None or (engine.pool.num_free == engine.pool.num_blocks and engine._scheduler.is_idle)


def ids(result: vzoom.Result) -> list[int]:
    return result.trajectory.ids


# ---------------------------------------------------------------- threads


def test_many_threads_get_what_one_after_the_other_would(zoomer: vzoom.Zoomer, questions: list[Question]) -> None:
    def sampling(thread: int, number: int) -> vzoom.Sampling:
        return vzoom.Sampling(temperature=(thread + number) % 2 * 0.8, seed=1000 * thread + number)

    def asked_by(thread: int) -> list[list[int]]:
        return [
            ids(zoomer.ask(*questions[(thread + number) % len(questions)], sampling=sampling(thread, number)))
            for number in range(ASKS)
        ]

    together_before = threading.active_count()
    with ThreadPoolExecutor(THREADS) as pool:
        together = list(pool.map(asked_by, range(THREADS)))
    engine = zoomer._engine_thread._engine
    assert engine is not None
    assert engine._scheduler._num_ids == THREADS * ASKS  # one engine had them all
    assert threading.active_count() <= together_before + 3  # it, and two that decode
    with vzoom.load("embedded", device="cpu") as alone:
        zoomer.close()
        zoomer = alone
        assert [asked_by(thread) for thread in range(THREADS)] == together


def test_a_long_batch_does_not_keep_others_waiting(zoomer: vzoom.Zoomer, questions: list[Question]) -> None:
    ended: list[str] = []
    began = threading.Event()

    def long_batch() -> None:
        zoomer.ask_many([questions[0]] * 24, max_sessions=4, on_event=lambda _: began.set())
        ended.append("batch")

    thread = threading.Thread(target=long_batch)
    thread.start()
    assert began.wait(30)
    zoomer.ask(*questions[1])
    ended.append("ask")
    thread.join(60)
    assert ended == ["ask", "batch"]


def test_the_engine_stays_warm_and_grows(zoomer: vzoom.Zoomer, questions: list[Question]) -> None:
    thread = zoomer._engine_thread
    one = zoomer.ask(*questions[0])
    first = thread._engine
    assert ids(zoomer.ask_many([questions[0]] * 3, max_sessions=8)[0]) == ids(one)
    assert thread._engine is first
    many = zoomer.rollouts(*questions[0], 12)
    assert len(many) == 12
    assert thread._engine is not first
    larger = thread._engine
    reused = zoomer.ask_many([questions[0]] * 2, max_sessions=1, reuse="rotate")
    assert ids(reused[0]) == ids(one)
    again = zoomer.ask(*questions[0])  # not on the engine that reuses
    assert again.trajectory.is_exact
    assert ids(again) == ids(one)
    assert thread._engine is not larger


def test_request_ids_count_the_questions_of_a_call(zoomer: vzoom.Zoomer, questions: list[Question]) -> None:
    for _ in range(2):
        told: dict[int, str] = {}

        def note(event: Event, told: dict[int, str] = told) -> None:
            if isinstance(event, Finished):
                told[event.request_id] = event.trajectory.question

        zoomer.ask_many(questions[:3], on_event=note)
        assert told == {i: text for i, (_, text) in enumerate(questions[:3])}


# ---------------------------------------------------------------- errors of one question


def test_one_error_discards_no_result(zoomer: vzoom.Zoomer, questions: list[Question], tmp_path: Path) -> None:
    asked = [questions[0], (tmp_path / "nowhere.mp4", "What?"), questions[1], (questions[2][0], "  ")]
    a, missing, b, empty = zoomer.ask_many(asked, return_exceptions=True)
    assert isinstance(a, vzoom.Result)
    assert isinstance(b, vzoom.Result)
    assert [ids(a), ids(b)] == [ids(r) for r in zoomer.ask_many(questions[:2])]
    assert isinstance(missing, VideoError)
    assert isinstance(empty, ValueError)
    assert "question is empty" in str(empty)
    with pytest.raises(VideoError, match="nowhere"):
        zoomer.ask_many(asked)
    assert wait_until(lambda: pages_are_back(zoomer))


class Planted(RuntimeError):
    pass


def test_a_bug_in_one_session_is_an_error_of_its_caller(
    zoomer: vzoom.Zoomer, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vzoom.engine.session import Session

    splice = Session.splice

    def rotten(self: Session, clip: Clip, *rest: Any) -> None:
        if self.trajectory.question.startswith("Rotten"):
            raise Planted("a bug")
        splice(self, clip, *rest)

    want = [ids(r) for r in zoomer.ask_many(questions[:3])]
    monkeypatch.setattr(Session, "splice", rotten)
    with ThreadPoolExecutor(4) as pool:
        fine = [pool.submit(zoomer.ask, *question) for question in questions[:3]]
        broken = pool.submit(zoomer.ask, questions[0][0], "Rotten?")
    assert [ids(future.result()) for future in fine] == want
    assert isinstance(broken.exception(), Planted)


def test_an_engine_that_breaks_is_made_anew(
    zoomer: vzoom.Zoomer, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    want = ids(zoomer.ask(*questions[0]))
    engine = zoomer._engine_thread._engine
    with monkeypatch.context() as patch:
        patch.setattr(engine, "step", lambda: (_ for _ in ()).throw(Planted("of the engine")))
        found = zoomer.ask_many(questions[:3], return_exceptions=True)
    assert [type(one) for one in found] == [Planted] * 3
    assert ids(zoomer.ask(*questions[0])) == want


def test_an_engine_that_cannot_be_made_is_an_error_of_the_question(
    zoomer: vzoom.Zoomer, questions: list[Question]
) -> None:
    own = zoomer.config
    zoomer.config = own.override(max_total_tokens=10**6)
    with pytest.raises(ValueError, match="max_total_tokens 1000000 is more than the"):
        zoomer.ask(*questions[0])
    zoomer.config = own
    assert zoomer.ask(*questions[0]).trajectory.ids


@pytest.mark.parametrize("error", [KeyboardInterrupt, Planted])
def test_a_listener_that_raises_ends_its_own_call(
    zoomer: vzoom.Zoomer, questions: list[Question], error: type[BaseException]
) -> None:
    def listen(event: Event) -> None:
        raise error

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(zoomer.ask_many, questions[:4])
        with pytest.raises(error):
            zoomer.ask_many([questions[0]] * 20, on_event=listen)
        assert all(isinstance(r, vzoom.Result) for r in other.result())
    assert wait_until(lambda: pages_are_back(zoomer))


# ---------------------------------------------------------------- asyncio


def test_a_stream_is_what_a_listener_hears(zoomer: vzoom.Zoomer, questions: list[Question]) -> None:
    heard: list[Event] = []
    want = zoomer.ask(*questions[0], on_event=heard.append)

    async def stream() -> list[Event]:
        return [event async for event in zoomer.stream(*questions[0])]

    events = asyncio.run(stream())
    assert [type(event) for event in events] == [type(event) for event in heard]
    assert isinstance(events[-1], Finished)
    assert events[-1].trajectory.ids == want.trajectory.ids


def test_many_tasks_get_what_one_after_the_other_would(zoomer: vzoom.Zoomer, questions: list[Question]) -> None:
    want = [ids(zoomer.ask(*question)) for question in questions[:6]]
    texts: list[Event] = []

    async def all_of_them() -> list[vzoom.Result]:
        return await asyncio.gather(*(zoomer.aask(*q, on_event=texts.append) for q in questions[:6]))

    assert [ids(result) for result in asyncio.run(all_of_them())] == want
    assert any(isinstance(event, TextDelta) for event in texts)


def test_a_stream_raises_what_ask_raises(zoomer: vzoom.Zoomer, tmp_path: Path) -> None:
    async def stream() -> None:
        async for _ in zoomer.stream(tmp_path / "nowhere.mp4", "What?"):
            raise AssertionError("there is nothing to tell")

    with pytest.raises(VideoError, match="nowhere"):
        asyncio.run(stream())
    with pytest.raises(VideoError, match="nowhere"):
        asyncio.run(zoomer.aask(tmp_path / "nowhere.mp4", "What?"))


@pytest.mark.parametrize("how", ["break", "cancel", "timeout", "loop gone"])
def test_who_stops_early_gives_the_pages_back(zoomer: vzoom.Zoomer, questions: list[Question], how: str) -> None:
    zoomer.config = zoomer.config.override(max_new_tokens=2000)
    held: list[int] = []

    async def stops() -> None:
        async for event in zoomer.stream(*questions[0], sampling=vzoom.Sampling(temperature=1.0)):
            if isinstance(event, TurnOpened):
                engine = zoomer._engine_thread._engine
                held.append(engine.pool.num_blocks - engine.pool.num_free)  # type: ignore[union-attr]
                if how == "cancel":
                    raise asyncio.CancelledError
                if how == "loop gone":
                    asyncio.get_running_loop().stop()
                if how == "timeout":
                    async with asyncio.timeout(0.1):
                        await asyncio.sleep(30)
                break

    with contextlib.suppress(asyncio.CancelledError, TimeoutError, RuntimeError):
        asyncio.run(stops())
    assert held[0] > 0
    assert wait_until(lambda: pages_are_back(zoomer), 1.0)
    assert zoomer.ask(*questions[0], max_zooms=0).trajectory.stop_reason is StopReason.ANSWERED


# ---------------------------------------------------------------- the end


def test_a_closed_zoomer_holds_nothing_and_answers_nothing(questions: list[Question]) -> None:
    before = threading.active_count()
    with vzoom.load("embedded", device="cpu") as zoomer:
        zoomer.ask(*questions[0])
        thread = zoomer._engine_thread
        assert thread._engine is not None
    assert thread._engine is None
    assert wait_until(lambda: threading.active_count() <= before)
    with pytest.raises(ValueError, match="closed"):
        zoomer.ask(*questions[0])
    zoomer.close()


def test_close_ends_what_is_asked(zoomer: vzoom.Zoomer, questions: list[Question]) -> None:
    began = threading.Event()

    def ask() -> list[vzoom.Result | Exception]:
        return zoomer.ask_many([questions[0]] * 200, on_event=lambda _: began.set(), return_exceptions=True)

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        assert began.wait(30)
        zoomer.close()
        found = asked.result(timeout=10)
    assert len(found) == 200
    assert isinstance(found[-1], ValueError)
    assert "closed before" in str(found[-1])


def test_a_zoomer_that_nobody_holds_ends_its_thread(questions: list[Question]) -> None:
    before = threading.active_count()
    zoomer = vzoom.load("embedded", device="cpu")
    zoomer.ask(*questions[0])
    assert threading.active_count() > before
    del zoomer
    gc.collect()
    assert wait_until(lambda: threading.active_count() <= before)


def run(code: str, *words: str, seconds: float, **environment: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )


EXITS = """
import sys, threading, time
import vzoom
from vzoom.engine.media import Media

zoomer = vzoom.load("embedded", device="cpu")
began = threading.Event()
if sys.argv[2] == "decode":  # a server that does not answer
    from vzoom.video.cache import CachedVideo

    def stuck(self, timestamps):
        began.set()
        time.sleep(600)

    CachedVideo.frames_at = stuck
ask = lambda: zoomer.ask_many([(sys.argv[1], "Which?")] * 500, on_event=lambda _: began.set())
threading.Thread(target=ask, daemon=True).start()
assert began.wait(60)
print(time.time(), flush=True)
"""


@pytest.mark.parametrize("busy", ["engine", "decode"])
def test_threads_do_not_hold_up_the_end_of_the_process(questions: list[Question], busy: str) -> None:
    done = run(EXITS, str(questions[0][0]), busy, seconds=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert time.time() - float(done.stdout) < 10


FORKS = """
import os, sys
import torch
import vzoom

torch.set_num_threads(int(sys.argv[2]))
zoomer = vzoom.load("embedded", device="cpu")
video, question = sys.argv[1], "Which shape appears?"
x = torch.randn(600, 600)
(x @ x).sum()  # the parent's OpenMP has run
want = zoomer.ask(video, question).trajectory.ids
reader = vzoom.open_video(video)
frames = reader.frames_at([1.0, 20.0]).frames
pid = os.fork()
if pid == 0:
    assert zoomer.ask(video, question).trajectory.ids == want
    assert (reader.frames_at([1.0, 20.0]).frames == frames).all()
    os._exit(0)
assert zoomer.ask(video, question).trajectory.ids == want
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
children = []

def forks(event):
    if not children:
        children.append(os.fork())

try:
    zoomer.ask(video, question, on_event=forks)
except ValueError as error:
    assert children == [0]
    os._exit(0 if "in the middle of a conversation" in str(error) else 4)
assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0
"""


@pytest.mark.parametrize("num_threads", ["1", "2"])
def test_a_model_works_on_both_sides_of_a_fork(questions: list[Question], num_threads: str) -> None:
    done = run(FORKS, str(questions[0][0]), num_threads, seconds=120, OMP_NUM_THREADS=num_threads)
    assert (done.returncode, done.stderr) == (0, "")


def test_cuda_is_refused_after_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    checkpoint: Any = SimpleNamespace(model=SimpleNamespace(device=torch.device("cuda")))
    with pytest.raises(ValueError, match="after fork"):
        _make_engine(checkpoint, FeatureCache(), EngineSize(1, 4096))


def test_a_cache_forgets_its_readers_at_a_fork(questions: list[Question]) -> None:
    cache = ClipCache()
    reader = cache.reader(questions[0][0])
    pid = os.fork()
    if pid == 0:
        os._exit(0 if cache.reader(questions[0][0]) is not reader else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert cache.reader(questions[0][0]) is reader


# ---------------------------------------------------------------- a process that asks for a long time


def held() -> dict[str, int]:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "MiB": pages * resource.getpagesize() >> 20,
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }


def test_memory_threads_and_descriptors_stay_flat(zoomer: vzoom.Zoomer, questions: list[Question]) -> None:
    def ask(count: int) -> None:
        for number in range(count):
            zoomer.ask(*questions[number % len(questions)])

    count = max(1000, 5 * ASKS) if ASKS > 4 else 60
    ask(count // 3)
    before = held()
    ask(count)
    after = held()
    print(f"{count} questions: {before} before, {after} after")
    assert after["threads"] <= before["threads"]
    assert after["descriptors"] <= before["descriptors"]
    assert after["MiB"] <= before["MiB"] + 16
