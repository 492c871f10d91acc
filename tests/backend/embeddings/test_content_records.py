"""The database of contents: whatever has happened to its file, the worst is that an image is fetched again."""

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from backend.embeddings.content_records import LOCKED_S, ContentDatabase, ContentRecord
from backend.images.fetch import Validators

ROOT = Path(__file__).parents[3]
ADDRESS = ("project 1", "cd" * 32)
RECORD = ContentRecord("ab" * 32, Validators('"v1"', "yesterday"), immutable=False, checked_at=1234.5)
CHANGED = ContentRecord("ef" * 32, Validators(), immutable=True, checked_at=2345.6)


WRITE_VERSION = 18
"""Where a file's head says whether it may be written; one that may not is left alone, as one of another user's is."""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "contents.db"


def opened(path, owner="http://localhost:8080", **options):
    """What a new process opens."""
    return ContentDatabase(path, owner, **options)


def test_a_record_outlives_its_process(path):
    opened(path).put(ADDRESS, RECORD)
    assert opened(path).get(ADDRESS) == RECORD


def test_the_last_record_counts(path):
    first = opened(path)
    first.put(ADDRESS, RECORD)
    first.put(ADDRESS, CHANGED)
    assert first.get(ADDRESS) == opened(path).get(ADDRESS) == CHANGED


def test_a_removed_record_is_missing(path):
    first = opened(path)
    first.put(ADDRESS, RECORD)
    first.remove(ADDRESS)
    assert opened(path).get(ADDRESS) is None


def test_an_address_has_one_record_however_often_it_is_stored(path):
    database = opened(path)
    for second in range(50):
        database.put(ADDRESS, replace(RECORD, checked_at=float(second)))
    [(count,)] = sqlite3.connect(path).execute("SELECT count(*) FROM contents_1")
    assert count == 1


def test_records_belong_to_a_project_of_one_label_studio(path):
    opened(path).put(ADDRESS, RECORD)
    assert opened(path).get(("project 2", ADDRESS[1])) is None
    assert opened(path, "http://elsewhere").get(ADDRESS) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"no database at all " * 100, b"SQLite format 3\0" + b"\xff" * 5000],
    ids=["empty", "foreign", "damaged"],
)
def test_a_file_that_is_no_database_is_a_miss_and_started_over(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    database = opened(path)
    assert database.get(ADDRESS) is None
    database.put(ADDRESS, RECORD)
    assert opened(path).get(ADDRESS) == RECORD


def test_a_file_that_is_cut_in_the_middle_is_a_miss_and_started_over(path):
    database = opened(path)
    for number in range(500):
        database.put(("project 1", str(number)), RECORD)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\0" * (path.stat().st_size - 4096))
    database = opened(path)
    assert database.get(("project 1", "7")) is None
    database.put(ADDRESS, RECORD)
    assert opened(path).get(ADDRESS) == RECORD


@pytest.mark.parametrize(
    "values",
    [
        ("no digest", "", "", 0, 1.0),
        ("AB" * 32, "", "", 0, 1.0),
        (b"\xff\xfe", "", "", 0, 1.0),
        ("ab" * 32, "", "", 0, "yesterday"),
    ],
)
def test_a_record_that_is_not_ours_is_a_miss(path, values):
    opened(path).put(ADDRESS, RECORD)
    with sqlite3.connect(path) as connection:
        connection.execute(
            "UPDATE contents_1 SET (digest, etag, last_modified, immutable, checked_at) = (?, ?, ?, ?, ?)", values
        )
    assert opened(path).get(ADDRESS) is None


def test_a_table_of_another_kind_is_started_over(path):
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE contents_1 (something)")
    database = opened(path)
    database.put(ADDRESS, RECORD)
    assert database.get(ADDRESS) == RECORD


def test_a_folder_that_cannot_be_written_is_logged_once_and_costs_nothing_else(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    database = opened(tmp_path / "file" / "contents.db")
    for _ in range(3):
        database.put(ADDRESS, RECORD)
        assert database.get(ADDRESS) is None
    assert caplog.text.count("event=contents_not_kept") == 1


def test_a_locked_database_is_a_miss_and_used_again_later(path):
    database = opened(path)
    database.put(ADDRESS, RECORD)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    database.put(ADDRESS, CHANGED)
    assert database.get(ADDRESS) is None
    other.execute("COMMIT")
    assert database.get(ADDRESS) == RECORD


def test_threads_wait_together_for_a_locked_database(path):
    database = opened(path)
    database.put(ADDRESS, RECORD)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    start = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(lambda _: database.get(ADDRESS), range(16))) == {None}
    assert time.monotonic() - start < 8 * LOCKED_S
    other.execute("COMMIT")
    assert database.get(ADDRESS) == RECORD


@pytest.mark.parametrize("damage", [b"\xff", b"\0"], ids=["no text", "zeros"])
def test_a_file_damaged_at_any_place_is_at_worst_started_over(path, damage):
    opened(path).put(ADDRESS, RECORD)
    good = path.read_bytes()
    used = [index for index, byte in enumerate(good) if byte and index != WRITE_VERSION]
    for index in used:
        path.write_bytes(good[:index] + damage + good[index + 1 :])
        database = opened(path)
        database.get(ADDRESS)
        database.put(ADDRESS, CHANGED)
        assert database.get(ADDRESS) == CHANGED, f"byte {index}"


def test_a_folder_that_is_deleted_meanwhile_is_made_again(path):
    database = opened(path)
    database.put(ADDRESS, RECORD)
    shutil.rmtree(path.parent)
    assert database.get(ADDRESS) is None
    database.put(ADDRESS, CHANGED)
    assert opened(path).get(ADDRESS) == CHANGED


def test_a_path_that_cannot_be_looked_at_is_a_miss(tmp_path):
    database = opened(tmp_path / ("long" * 100) / "contents.db")
    database.put(ADDRESS, RECORD)
    assert database.get(ADDRESS) is None


def test_a_file_that_has_grown_too_large_loses_its_oldest_records(path):
    first = opened(path)
    for number in range(1000):
        first.put(("project 1", str(number)), replace(RECORD, checked_at=float(number)))
    size = path.stat().st_size
    reopened = opened(path, max_bytes=size - 1)
    assert reopened.get(("project 1", "10")) is None
    assert reopened.get(("project 1", "990")) is not None
    third = opened(path, max_bytes=size * 3 // 4)
    assert third.get(("project 1", "600")) is not None, "the file is smaller now"


SCRIPT = """
import sys
from pathlib import Path
from backend.embeddings.content_records import ContentDatabase, ContentRecord
from backend.images.fetch import Validators
database = ContentDatabase(Path(sys.argv[1]), "http://localhost:8080", locked_s=60)
for number in range(300):
    database.put((sys.argv[2], str(number)), ContentRecord("ab" * 32, Validators(), True, float(number)))
"""


def test_two_processes_and_several_threads_write_one_file_and_each_reads_all(path):
    command = [sys.executable, "-c", SCRIPT, str(path)]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    processes = [subprocess.Popen([*command, f"process {number}"], env=environ) for number in range(2)]
    database = opened(path, locked_s=60)

    def write(owner):
        for number in range(300):
            database.put((owner, str(number)), CHANGED)

    threads = [threading.Thread(target=write, args=(f"thread {number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait(60) for process in processes] == [0, 0]
    owners = [f"process {number}" for number in range(2)] + [f"thread {number}" for number in range(3)]
    for reader in (database, opened(path, locked_s=60)):
        assert all(reader.get((owner, str(number))) is not None for owner in owners for number in range(300))


def files_of(database: ContentDatabase, project_id: int) -> frozenset[str]:
    """Erase a project, and return the digests of the files that others have."""
    digests = database.files_of_others(project_id)
    assert digests is not None
    assert database.erase(project_id)
    return digests


def test_what_is_erased_of_a_project_is_in_no_file_any_more_and_other_projects_keep_theirs(path):
    database = opened(path)
    database.put(ADDRESS, RECORD)
    database.note_file(1, RECORD.digest)
    database.put(("project 2", "01" * 32), CHANGED)
    database.note_file(2, CHANGED.digest)
    assert files_of(opened(path), 1) == {CHANGED.digest}
    assert opened(path).get(ADDRESS) is None
    assert RECORD.digest.encode() not in path.read_bytes()
    assert opened(path).get(("project 2", "01" * 32)) == CHANGED
    assert files_of(opened(path), 1) == {CHANGED.digest}
    assert files_of(opened(path), 2) == frozenset()
    assert opened(path).get(("project 2", "01" * 32)) is None


def test_a_file_that_two_projects_have_is_erased_with_the_first_and_known_of_both(path):
    database = opened(path)
    for project in (1, 2):
        database.put((f"project {project}", "01" * 32), RECORD)
        database.note_file(project, RECORD.digest)
    database.note_file(3, CHANGED.digest)
    assert files_of(database, 1) == {CHANGED.digest}
    assert database.get(("project 2", "01" * 32)) is None
    assert database.files_of_others(3) == {RECORD.digest}, "it is still the second project's"
    assert files_of(database, 2) == {CHANGED.digest}
    assert database.files_of_others(3) == frozenset()


def test_of_two_label_studios_with_one_file_each_erases_its_own_projects(path):
    opened(path, "http://elsewhere").note_file(1, RECORD.digest)
    assert files_of(opened(path), 1) == {RECORD.digest}
    assert files_of(opened(path, "http://elsewhere"), 1) == frozenset()


def test_while_another_process_writes_nothing_is_erased_and_that_is_reported(path):
    opened(path).note_file(1, RECORD.digest)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    assert opened(path).files_of_others(2) is None
    assert not opened(path).erase(1)
    other.execute("ROLLBACK")
    assert opened(path).files_of_others(2) == {RECORD.digest}
    assert files_of(opened(path), 1) == frozenset()
    assert opened(path).files_of_others(2) == frozenset()


def test_what_is_noted_of_no_project_is_erased_with_any(path):
    database = opened(path)
    database.put(ADDRESS, RECORD)
    database.put(("project 2", "01" * 32), CHANGED)
    database.note_file(2, CHANGED.digest)
    assert files_of(database, 1) == {CHANGED.digest}
    assert database.get(ADDRESS) is None
    assert database.get(("project 2", "01" * 32)) == CHANGED


def test_a_database_that_is_missing_or_damaged_keeps_no_file_for_others(path):
    assert files_of(opened(path), 1) == frozenset()
    assert not path.parent.exists(), "nothing is created"
    path.parent.mkdir()
    path.write_bytes(b"no database at all " * 100)
    assert files_of(opened(path), 1) == frozenset()
    assert not path.exists()
