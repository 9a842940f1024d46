"""The simulation: seeds that must find nothing, seeds that once did, and that a seed always tells the same story."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .sim.__main__ import Summary, main
from .sim.found import FOUND, Found
from .sim.walk import FAULTS, OTHERS, simulate
from .sim.world import World

pytestmark = [pytest.mark.connectivity, pytest.mark.orders, pytest.mark.portfolio, pytest.mark.exchanges]

EACH = 5  # seeds a test


@pytest.mark.parametrize("first", range(100_000, 100_020, EACH))
def test_nothing_is_wrong_at_any_step_of_a_world(first: int, tmp_path: Path) -> None:
    for seed in range(first, first + EACH):
        result = simulate(tmp_path, seed)
        assert not result.failure, "\n".join([f"seed {seed}: {result.failure}", *result.told, *result.trace])


@pytest.mark.parametrize("found", FOUND, ids=lambda found: found.name)
def test_a_seed_that_found_something_finds_nothing_any_more(found: Found, tmp_path: Path) -> None:
    result = simulate(tmp_path, found.seed, **found.options)
    assert not result.failure, f"{found.what}: {result.failure}"


def test_without_faults_and_others_no_order_is_ever_unknown_and_nothing_is_corrected(tmp_path: Path) -> None:
    calm = frozenset(OTHERS | FAULTS)
    result = simulate(tmp_path, 1, without=calm)
    assert not result.failure
    assert result.orders > 200
    assert result.fills > 100


def test_the_same_seed_has_the_same_trace(tmp_path: Path) -> None:
    first, second, other = simulate(tmp_path, 7), simulate(tmp_path, 7), simulate(tmp_path, 8)
    assert first.digest == second.digest
    assert first.digest != other.digest
    assert (first.orders, first.fills, first.commits) == (second.orders, second.fills, second.commits)


def test_the_trace_does_not_depend_on_the_process_that_makes_it(root: Path) -> None:
    def digest(hash_seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root / ".src")}
        told = subprocess.run(
            [sys.executable, "-m", "tests.sim", "--seed", "11"],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        (line,) = [line for line in told.stdout.splitlines() if line.startswith("digest ")]
        return line

    assert digest("1") == digest("4242")


def test_a_paused_process_that_was_taken_over_sends_no_order_when_it_wakes_and_ends(tmp_path: Path) -> None:
    world = World(tmp_path, seed=5)
    for _ in range(10):
        world.command(world.submission("buy", "0.001", price=59_000))
    paused = world.pause()  # its commands are not even committed
    world.wait(4_000)
    world.take_over()

    def sent() -> int:
        frames = [frame for socket in world.network.sockets if socket.owner is paused for frame in socket.sent]
        return sum(b'"order.place"' in frame for frame in frames)

    before = sent()
    paused.wake()
    world.until(lambda: not paused.alive, "it is told that it is not the writer, and ends", 20)
    assert sent() == before
    world.heal()
    world.safety.look()
    world.check()


def test_frames_that_leave_before_their_commit_are_safe_by_rules_of_their_own(tmp_path: Path) -> None:
    for seed in range(100_100, 100_105):
        result = simulate(tmp_path, seed, DURABILITY="behind")
        assert not result.failure, "\n".join([f"seed {seed}: {result.failure}", *result.told, *result.trace])


def test_the_command_tells_the_seeds_and_how_to_repeat_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["sim", "--seeds", "2", "--jobs", "1", "--steps", "20"])
    assert main() == 0
    told = capsys.readouterr().out
    assert "simulated orders a second" in told
    assert "failed 0" in told
    assert Summary().failed == []
