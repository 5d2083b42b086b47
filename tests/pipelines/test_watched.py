import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from extpose.errors import ExtPoseError
from pipelines.ledger import Unit
from pipelines.plan import plan_videos
from pipelines.stages.detect import Detect, Detected, detect_unit
from pipelines.watched import Watched, WorkDied
from pipelines.watching import StallError, watched_rows
from tests.pipelines.fakes import BoxDetector, box_detector, config_of, write_people
from tests.test_video import write_video

ROOT = Path(__file__).parents[2]


def build_echo():
    return echo


def build_nothing():
    raise FileNotFoundError("no weights")


def echo(task, beat):
    """Says the process it is in, or dies as asked. A file counts the tries."""
    beat("frame 1: detector")
    if isinstance(task, Path):
        task.write_text(task.read_text() + "x")
        if len(task.read_text()) < 3:
            os.kill(os.getpid(), signal.SIGKILL)
    if task == "hang":
        time.sleep(60)
    if task == "exit":
        os._exit(7)
    return os.getpid()


def test_work_is_done_in_one_child():
    work = Watched(build_echo, limit=20, tries=1)
    first = work("a")
    assert first == work("b") != os.getpid()
    work.close()
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


def test_a_death_is_tried_again(tmp_path):
    (tmp_path / "tries").write_text("")
    work = Watched(build_echo, limit=20, tries=3)
    assert work(tmp_path / "tries")
    assert (tmp_path / "tries").read_text() == "xxx"
    work.close()


def test_deaths_name_what_was_done():
    work = Watched(build_echo, limit=0.5, tries=1)
    with pytest.raises(WorkDied, match=r"frame 1: detector: no answer for 0\.5 s") as caught:
        work("hang")
    assert caught.value.reason == "hung"
    assert "in echo" in caught.value.where
    with pytest.raises(WorkDied, match=r"frame 1: detector: the process died \(exit code 7\)"):
        work("exit")
    assert work("still alive")
    work.close()


def test_a_child_that_dies_between_two_tasks_is_replaced():
    work = Watched(build_echo, limit=20, tries=1)
    first = work("a")
    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    second = work("b")
    assert second != first
    work.close()
    assert work("c") != second
    work.close()


def build_at_second_try(flag):
    if not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return echo


def test_a_death_while_building_is_tried_again(tmp_path):
    work = Watched(functools.partial(build_at_second_try, tmp_path / "flag"), limit=20, tries=2)
    assert work("a")
    work.close()
    with pytest.raises(WorkDied, match=r"building: the process died \(SIGKILL\)"):
        Watched(functools.partial(build_at_second_try, tmp_path / "other"), limit=20, tries=1)


def test_a_child_that_cannot_start():
    with pytest.raises(ExtPoseError, match="FileNotFoundError: no weights"):
        Watched(build_nothing, limit=1, tries=1)


def build_unless(flag):
    if flag.exists():
        raise FileNotFoundError("no weights")
    return echo


def test_a_restart_that_fails_is_tried_at_the_next_call(tmp_path):
    flag = tmp_path / "flag"
    work = Watched(functools.partial(build_unless, flag), limit=20, tries=2)
    flag.touch()
    with pytest.raises(ExtPoseError, match="no weights"):
        work("exit")
    with pytest.raises(ExtPoseError, match="no weights"):
        work("a")
    flag.unlink()
    assert work("a")
    work.close()


ORPHAN = """
from tests.pipelines.test_watched import build_echo
from pipelines.watched import Watched
work = Watched(build_echo, limit=0.5, tries=1)
print(work(""), flush=True)
work("hang")
"""


def test_children_of_a_killed_parent_end():
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHAN], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}/stat").exists():
        if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("fault", "reason", "message"),
    [
        ("raises", "ArithmeticError", "frame 5: poison"),
        ("says NaN", "DetectorError", "frame 5: keypoints_2d has 3 values not finite"),
        ("forgets a score", "DetectorError", r"frame 5: .* has shape \(1, "),
        ("crashes", "detector_crashed", r"frame 5: detector: the process died \(SIGSEGV\)"),
        ("hangs", "detector_hung", "frame 5: detector: no answer for 1 s"),
    ],
)
def test_a_detector_that_fails_on_a_frame_fails_its_unit(tmp_path, fault, reason, message):
    path = write_people(tmp_path / "a.mp4", 12, poison=5)
    config = config_of(path, tmp_path)
    units = [
        Unit(
            name=f"a-{start}", path=str(path), video_id="a", start=start, stop=start + 6,
            fps=25.0, height=120, width=160, identity="",
        )
        for start in (0, 6)
    ]  # fmt: skip
    detect = Detect(config.detect, box_detector(fault), limit=1, tries=1)
    rows = [detect(vars(unit)) for unit in units]
    failure = json.loads(rows[0]["error"])
    assert failure["reason"] == reason
    assert re.fullmatch(message + ".*", failure["message"])
    assert "error" not in rows[1]
    assert rows[1]["detections"]
    detect.close()


def test_a_late_unit_of_a_video_that_cannot_be_sought_beats_while_it_skips(tmp_path):
    write_video(tmp_path / "a.avi", 40)
    config = config_of(tmp_path / "a.avi", tmp_path)
    [video] = plan_videos(config.source.path, config, {})
    assert [unit.start for unit in video.units] == [0, 20]
    said = []
    found = detect_unit(BoxDetector(0, "nothing"), vars(video.units[1]), said.append)
    assert isinstance(found, Detected)
    assert [f"frame {i}: decoder" for i in range(20)] == said[1:21]


def make_unit(name: str) -> Unit:
    return Unit(
        name=name, path=f"{name}.mp4", video_id=name, start=0, stop=1, fps=25.0, height=9, width=9,
        identity="",
    )  # fmt: skip


def test_a_run_without_progress_stops_and_names_its_units():
    def rows():
        yield {"name": "a"}
        time.sleep(60)

    seen = []
    units = [make_unit(name) for name in "abc"]
    with pytest.raises(StallError, match=r"open: b \(b\.mp4\), c \(c\.mp4\)$"):
        seen.extend(watched_rows(rows(), units, limit=0.3))

    def broken():
        yield {"name": "a"}
        raise KeyError("b")

    watched = watched_rows(broken(), units, limit=60)
    assert next(watched) == {"name": "a"}
    with pytest.raises(KeyError):
        next(watched)
    assert list(watched_rows(iter([]), units, limit=60)) == []
