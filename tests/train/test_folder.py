"""A run's folder looks whole only when it is."""

from __future__ import annotations

import json
import os
import resource
import socket
from pathlib import Path

import pytest

from adamas.errors import RunError
from adamas.train.runs.folder import RECORD, RunFolder, open_run, write_file


def made(out: Path, name: str | None = "a") -> Path:
    with RunFolder(out, name, "label") as folder:
        folder.write("report.md", "done")
        return folder.finish({"kind": "train"})


def test_a_finished_run_is_opened_by_name_and_as_latest(tmp_path: Path) -> None:
    path = made(tmp_path)
    assert path == tmp_path / "a"
    assert json.loads((path / RECORD).read_text())["complete"] is True
    assert open_run(path)[1]["kind"] == "train"
    assert open_run(tmp_path / "latest")[0] == path
    made(tmp_path, "b")
    assert open_run(tmp_path / "latest")[0] == tmp_path / "b"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "latest"]


def test_where_links_do_not_work_latest_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError("links are not supported here")

    monkeypatch.setattr(os, "symlink", refuse)
    made(tmp_path)
    assert (tmp_path / "latest").read_text() == "a\n"
    assert open_run(tmp_path / "latest")[0] == tmp_path / "a"


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt(), "interrupted"), (ValueError("no\nluck"), "failed: no luck")]
)
def test_what_fails_stays_marked_unfinished(tmp_path: Path, error: BaseException, status: str) -> None:

    def fail() -> None:
        with RunFolder(tmp_path, "a", "label") as folder:
            folder.write("report.md", "half")
            raise error

    with pytest.raises(type(error)) as caught:
        fail()
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "latest").exists()
    record = json.loads((tmp_path / "a.unfinished" / RECORD).read_text())
    assert (record["complete"], record["status"]) == (False, status)
    assert f"{tmp_path / 'a.unfinished'} is left unfinished" in caught.value.__notes__
    for asked in ("a", "a.unfinished"):
        with pytest.raises(RunError, match=r"a\.unfinished is unfinished"):
            open_run(tmp_path / asked)
    assert made(tmp_path) == tmp_path / "a"  # the same name may be tried again


def test_a_renamed_unfinished_folder_does_not_pass(tmp_path: Path) -> None:
    with pytest.raises(ValueError), RunFolder(tmp_path, "a", "label"):  # noqa: PT011
        raise ValueError
    (tmp_path / "a.unfinished").rename(tmp_path / "a")
    with pytest.raises(RunError, match="is unfinished"):
        open_run(tmp_path / "a")


def test_names_are_not_taken_twice(tmp_path: Path) -> None:
    made(tmp_path)
    with pytest.raises(RunError, match="exists; choose another --name"):
        made(tmp_path)
    assert len({made(tmp_path, None), made(tmp_path, None)}) == 2  # named by time, also within one second


def test_a_run_that_a_living_process_is_making_is_left_alone(tmp_path: Path) -> None:
    building = tmp_path / "a.unfinished"
    building.mkdir()
    record = {"status": "running", "host": socket.gethostname(), "process": os.getppid()}
    (building / RECORD).write_text(json.dumps(record))
    with pytest.raises(RunError, match="is being made by process"):
        RunFolder(tmp_path, "a", "label")
    assert building.is_dir()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a run"),
        ("{", "is damaged"),
        ("[]", "holds no record"),
        ('{"complete": false}', "is unfinished"),
        ('{"complete": true, "format": "adamas.run", "version": 9}', "another version"),
    ],
)
def test_folders_that_are_no_complete_run_are_refused(tmp_path: Path, content: str | None, message: str) -> None:
    (tmp_path / "a").mkdir()
    if content is not None:
        (tmp_path / "a" / RECORD).write_text(content)
    with pytest.raises(RunError, match=message):
        open_run(tmp_path / "a")


def test_a_run_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such run"):
        open_run(tmp_path / "nothing")
    (tmp_path / "latest").symlink_to("gone")
    with pytest.raises(RunError, match="points to a run that was removed"):
        open_run(tmp_path / "latest")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file is a file; give a folder for the runs"):
        RunFolder(tmp_path / "file", "a", "label")
    with pytest.raises(RunError, match="cannot write to"):
        RunFolder(tmp_path / "file" / "runs", "a", "label")


def test_a_file_that_cannot_grow_leaves_the_old_one_and_no_scraps(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_file(path, "old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # the system then refuses, as it does on a full disk
    try:
        with pytest.raises(OSError, match="File too large"):
            write_file(path, "new" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_name_that_another_process_has_just_taken_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    building = tmp_path / "a.unfinished"
    building.mkdir()  # its run.json is not written yet
    with pytest.raises(RunError, match=r"a\.unfinished has just been made by another process"):
        RunFolder(tmp_path, "a", "label")
    assert building.exists()
    long_ago = building.stat().st_mtime - 60
    os.utime(building, (long_ago, long_ago))  # so whoever made it is gone
    assert made(tmp_path) == tmp_path / "a"
    monkeypatch.setattr(Path, "exists", lambda path: False)  # somebody comes between the question and the making
    building.mkdir()
    with pytest.raises(RunError, match="has just been made"):
        RunFolder(tmp_path, "a", "label")


def test_names_by_time_differ_when_runs_begin_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.strftime", lambda *arguments: "now")
    paths = [made(tmp_path, None) for _ in range(3)]
    assert [path.name for path in paths] == ["now-label", "now-label-2", "now-label-3"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", *(path.name for path in paths)]


def test_a_run_in_the_making_says_so_until_its_last_file(tmp_path: Path) -> None:
    """Nothing gets to say "failed" when a process is killed: what is on the disk by then must be enough."""
    with RunFolder(tmp_path, "a", "label") as folder:
        record = json.loads((folder.path / RECORD).read_text())
        assert (record["complete"], record["status"], record["process"]) == (False, "running", os.getpid())
        (tmp_path / "stolen").mkdir()
        (tmp_path / "stolen" / RECORD).write_bytes((folder.path / RECORD).read_bytes())
        with pytest.raises(RunError, match=r"stolen is unfinished \(running\)"):
            open_run(tmp_path / "stolen")
        folder.finish({})


def test_a_run_gets_its_name_when_its_record_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may be killed at any moment: a folder without `.unfinished` must be whole from the first."""
    rename, complete = os.rename, {}

    def watched(source: Path, target: Path) -> None:
        if Path(source).is_dir():
            complete[Path(target).name] = json.loads((Path(source) / RECORD).read_text())["complete"]
        rename(source, target)

    with RunFolder(tmp_path, "a", "label") as folder:
        monkeypatch.setattr(os, "rename", watched)
        folder.finish({})
    assert complete == {"a": True}
