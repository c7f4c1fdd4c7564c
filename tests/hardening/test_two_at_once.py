"""Two commands on one output folder at once: the second is told who holds it, and the first ends as if it had been alone.

The first is stopped in the middle of one of its writes (see `full_disk.c`), so that it surely is at work.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from hardening.jobs import JOBS, Job, differences, put_inputs, result_of
from hardening.stage import PAUSE, Act, Stage

TOGETHER = {  # first -> those that come meanwhile
    "prepare scenes": ("prepare scenes", "prepare scenes, two workers"),
    "prepare coco-captions": ("prepare coco-captions",),
    "prepare vqa": ("prepare vqa",),
    "extract": ("extract", "import tsv", "merge", "verify"),
    "import tsv": ("import tsv", "import lmdb", "extract"),
    "import lmdb": ("import lmdb",),
    "import npy": ("import npy",),
    "merge": ("merge", "extract", "verify"),
    "pretrain": ("pretrain", "finetune"),
    "finetune": ("finetune", "pretrain"),
}
MEANWHILE = JOBS | {"verify": Job(("extract-regions", "--out", "out/store", "--verify"))}
FAST = ("prepare coco-captions", "extract", "finetune")


def pause_in(job: Job, stage: Stage, place: Path, write: int) -> Act:
    """Starts a job and returns when it stands still at a write."""
    act = job.start(stage, place, disk=(str(place / "out"), write, PAUSE))
    end = time.monotonic() + 120
    while not act.is_stopped():
        assert time.monotonic() < end and not act.is_over(), act.said()
        time.sleep(0.005)
    return act


@pytest.mark.parametrize(
    "share", [0.2, pytest.param(0.6, marks=pytest.mark.slow), pytest.param(0.9, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in FAST else pytest.mark.slow) for n in TOGETHER])
def test_the_second_is_told_who_holds_the_folder_and_the_first_is_not_disturbed(stage, inputs, tmp_path, name, share):
    if stage.preload is None:
        pytest.skip("no C compiler: a command cannot be stopped at a write")
    job = JOBS[name]
    whole = job.fresh(tmp_path / "whole", inputs)
    put_inputs(job, whole)
    alone = job.start(stage, whole, disk=(str(whole / "out"), 0, PAUSE))
    assert alone.wait() == 0, alone.said()
    place = job.fresh(tmp_path / "shared", inputs)
    put_inputs(job, place)
    first = pause_in(job, stage, place, int(share * alone.writes()))
    try:
        for other in TOGETHER[name]:
            status, said = MEANWHILE[other].run(stage, place)
            lines = said[said.find("Error: ") :].splitlines()
            assert status == 1 and len(lines) == 3 and "Traceback" not in said, (other, said)
            assert f"process {first.process}" in lines[1], (other, said)
    finally:
        first.send(signal.SIGCONT)
    assert first.wait() == 0, first.said()
    assert differences(result_of(job, place), result_of(job, whole)) == []


def test_a_part_of_an_extraction_is_done_by_one_process_and_another_part_by_another(stage, inputs, tmp_path):
    if stage.preload is None:
        pytest.skip("no C compiler: a command cannot be stopped at a write")
    place = JOBS["extract"].fresh(tmp_path / "parts", inputs)
    parts = [Job((*JOBS["extract"].arguments, "--shard", f"{number}/2")) for number in (0, 1)]
    first = pause_in(parts[0], stage, place, 40)
    try:
        status, said = parts[0].run(stage, place)
        assert status == 1 and f"process {first.process}" in said, said
        assert JOBS["extract"].run(stage, place)[0] == 1, "nobody takes the whole while a part is at work"
        other = parts[1].start(stage, place)
    finally:
        first.send(signal.SIGCONT)
    assert first.wait() == 0 and other.wait() == 0, first.said() + other.said()
    whole = JOBS["extract"].fresh(tmp_path / "whole", inputs)
    assert JOBS["extract"].run(stage, whole)[0] == 0
    assert differences(result_of(parts[0], place), result_of(parts[0], whole)) == []
