"""The folder of decoders keeps whole files, and one record for each project that is replaced as a whole."""

import json
import multiprocessing
from dataclasses import replace

import pytest

from backend.decoders.folder import MOST_DECODERS, RECORD, DecoderFolder, Record, erase
from model import folders
from model.weights.errors import WeightsError
from tests.support.checkpoints import random_checkpoint
from tests.support.decoder_files import decoder_file

BASE = random_checkpoint()


@pytest.fixture
def folder(tmp_path):
    return DecoderFolder(tmp_path / "decoders")


def test_a_project_without_decoders_has_an_empty_record_and_no_folder(folder):
    assert folder.record(7) == Record()
    assert folder.projects() == ()
    assert not folder.root.exists()


def test_a_new_decoder_serves_its_project_and_is_read_as_it_was_written(folder):
    data = decoder_file(BASE, project=7)
    decoder = folder.publish(7, data)
    record = DecoderFolder(folder.root).record(7)
    assert (record.active, record.digests, record.revision) == (decoder.digest, (decoder.digest,), 1)
    assert folder.read(7, decoder.digest).digest == decoder.digest
    assert folder.file(7, decoder.digest).read_bytes() == data
    assert folder.projects() == (7,)


def test_a_new_decoder_leaves_a_pinned_one_in_place(folder):
    first = folder.publish(7, decoder_file(BASE, 1, project=7))
    folder.change(7, lambda record: replace(record, is_pinned=True))
    second = folder.publish(7, decoder_file(BASE, 2, project=7))
    assert folder.record(7).active == first.digest
    assert folder.record(7).digests == (second.digest, first.digest)


def test_the_newest_decoders_are_kept_and_the_active_one_always_is(folder):
    decoders = [folder.publish(7, decoder_file(BASE, seed, project=7)) for seed in (1, 2)]
    folder.change(7, lambda record: replace(record, active=decoders[0].digest, is_pinned=True))
    decoders += [folder.publish(7, decoder_file(BASE, seed, project=7)) for seed in range(3, 9)]
    record = folder.record(7)
    assert record.active == decoders[0].digest
    assert len(record.digests) == MOST_DECODERS
    assert {path.stem for path in (folder.root / "7").glob("*.safetensors")} == set(record.digests)
    assert decoders[-1].digest in record.digests


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"revision": -1}', b'{"active": "abc", "digests": []}',
    b'{"digests": ["../../etc/passwd"]}', b'{"revision": "1"}', b'{"more": ' + b"[" * 30_000])  # fmt: skip
def test_a_damaged_record_counts_as_none(folder, data):
    folders.write(folder.path(7, RECORD), data)
    assert folder.record(7) == Record()


def test_the_decoder_of_another_project_is_refused(folder):
    with pytest.raises(WeightsError, match="expected one of project 8, got 7's"):
        folder.publish(8, decoder_file(BASE, project=7))
    assert folder.record(8) == Record()


def test_what_is_no_decoder_is_refused_and_leaves_the_old_one(folder):
    first = folder.publish(7, decoder_file(BASE, project=7))
    for data in (b"", b"x" * 100, bytes(21_000_000)):
        with pytest.raises(WeightsError):
            folder.publish(7, data)
    assert folder.record(7).active == first.digest


def test_a_file_that_was_damaged_on_the_disk_is_not_read(folder):
    digest = folder.publish(7, decoder_file(BASE, project=7)).digest
    path = folder.path(7, f"{digest}.safetensors")
    path.write_bytes(decoder_file(BASE, 2, project=7))
    with pytest.raises(WeightsError, match="its file is damaged"):
        folder.read(7, digest)


def test_of_two_records_the_one_with_the_higher_revision_is_taken_over(folder):
    digest = folder.publish(7, decoder_file(BASE, project=7)).digest
    folder.take_over(7, Record(0, None, False, (digest,)))
    assert folder.record(7).active == digest
    folder.take_over(7, Record(2, None, True, (digest,)))
    assert folder.record(7) == Record(2, None, True, (digest,))


def publish_many(root, seeds):
    for seed in seeds:
        DecoderFolder(root).publish(7, decoder_file(BASE, seed, project=7))


def test_processes_that_publish_at_a_time_lose_no_decoder(folder):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=publish_many, args=(folder.root, seeds)) for seeds in ((1, 2), (3, 4))]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    record = folder.record(7)
    assert (record.revision, len(record.digests)) == (4, 4)
    assert json.loads((folder.root / "7" / RECORD).read_text())["active"] == record.digests[0]


def test_one_training_of_a_project_runs_at_a_time_and_one_that_has_ended_leaves_no_lock(folder):
    other = DecoderFolder(folder.root)
    with folder.only_training(7):
        with pytest.raises(ValueError, match="another training of its decoder runs"), other.only_training(7):
            pass
        with other.only_training(8):
            pass
    with other.only_training(7):
        pass


def test_what_is_erased_of_a_project_leaves_a_newer_record_without_decoders_and_other_projects_alone(folder):
    for project in (7, 8):
        folder.publish(project, decoder_file(BASE, project=project))
    folder.path(7, "report.html").write_text("pictures")
    before = folder.record(7)
    assert erase(folder, 7) == 1
    after = folder.record(7)
    assert (after.active, after.digests) == (None, ())
    assert after.order > before.order
    assert [path.name for path in folder.path(7, RECORD).parent.glob("[!.]*")] == [RECORD]
    assert folder.read(8, folder.record(8).active).info.project == 8
    assert erase(folder, 7) == 0


def test_erasing_a_project_without_decoders_makes_no_folder(folder):
    assert erase(folder, 7) == 0
    assert folder.projects() == ()


def test_nothing_is_erased_while_a_training_runs(folder):
    folder.publish(7, decoder_file(BASE, project=7))
    with folder.only_training(7), pytest.raises(ValueError, match="another training"):
        erase(folder, 7)
    assert len(folder.record(7).digests) == 1
