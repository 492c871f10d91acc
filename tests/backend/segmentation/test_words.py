"""Words that an annotator types into a task become labelled masks."""

import threading

import pytest

from backend.errors import ImageError, Reason
from backend.protocol import messages
from backend.segmentation.service import ClickPolicy
from tests.support.fake_detector import FakeDetector
from tests.support.fakes import png
from tests.support.service import IMAGE, SIZE_WH, Service, wait_until
from tests.support.wire_bodies import WORDS_CONFIG, click, encoded, recorded, result, words

CAT, SMALL_CAT = ("cat", 0.9, (10.0, 10.0, 30.0, 30.0)), ("cat", 0.4, (50.0, 30.0, 70.0, 50.0))
DOG = ("dog", 0.8, (40.0, 5.0, 60.0, 25.0))
SOON_S = 10.0


@pytest.fixture
def detector():
    return FakeDetector(SMALL_CAT, CAT, DOG)


@pytest.fixture
def service(detector):
    with Service(detector=detector) as service:
        yield service


def typed(*texts, config=WORDS_CONFIG, uri=IMAGE, **changes):
    task = [{"id": 1, "data": {"image": uri}}]
    return messages.parse_predict(encoded(click(words(*texts, **changes), label_config=config, tasks=task)))


def config(labels, tags="", area="segment_words"):
    return (
        f'<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image">{labels}</BrushLabels>'
        f'<TextArea name="{area}" toName="image"/>{tags}</View>'
    )


def labels(answer):
    return [region.labels for region in answer.result]


# What is answered


def test_words_become_masks_with_their_labels_and_the_detectors_scores(service, detector):
    [answer] = service.segmenter.predict(typed("cat, dog"))
    assert [(region.labels, region.score) for region in answer.result] == [
        (("Cat",), 0.9),
        (("Dog",), 0.8),
        (("Cat",), 0.4),
    ]
    assert {(region.control, region.to_name, region.original_size) for region in answer.result} == {
        ("brush", "image", (60, 80))
    }
    assert detector.calls == [((60, 80, 3), ("cat", "dog"), None)]
    assert [prompt.box.tolist() for prompt in service.decoder.prompts] == [
        list(box) for _, _, box in (CAT, DOG, SMALL_CAT)
    ]
    assert len(service.decoder.calls) == 1
    assert answer.reasons == ()


def test_what_label_studio_sends_for_a_text_is_answered(service):
    body = recorded("words_typed")
    request = messages.parse_predict(encoded(body))
    service.source.contents[request.tasks[0].data["image"]] = png(size_wh=SIZE_WH)
    service.detector.boxes = [("red", 0.9, (10.0, 10.0, 30.0, 30.0)), ("blue", 0.8, (30.0, 10.0, 50.0, 30.0))]
    [answer] = service.predict(body)
    assert [region["value"]["rectanglelabels"] for region in answer["result"]] == [["Red"], ["Blue"]]
    assert service.reasons() == []


@pytest.mark.parametrize("text", [" ", "", "*", " , ", "\n"])
def test_a_text_without_words_means_all_labels(service, detector, text):
    [answer] = service.segmenter.predict(typed("cat", text))
    assert detector.calls[0][1] == ("Cat", "Dog")
    assert labels(answer) == [("Cat",), ("Dog",), ("Cat",)]


def test_the_text_that_was_entered_last_counts(service, detector):
    service.segmenter.predict(typed("cat", "dog"))
    assert detector.calls[0][1] == ("dog",)


def test_a_labels_name_is_looked_for_as_its_prompt_says_and_a_prompts_word_gets_its_label(service, detector):
    katze = config('<Label value="Katze" prompt="cat"/><Label value="Hund" prompt="dog"/>')
    [answer] = service.segmenter.predict(typed("katze, dog", config=katze))
    assert detector.calls[0][1] == ("cat", "dog")
    assert labels(answer) == [("Katze",), ("Hund",), ("Katze",)]


def test_a_word_gets_the_label_after_its_equals_sign(service):
    [answer] = service.segmenter.predict(typed("dog=cat"))
    assert labels(answer) == [("Cat",)]


def test_a_word_that_is_no_label_gives_a_mask_without_one_and_says_so(service):
    service.detector.boxes.append(("tram", 0.7, (0.0, 0.0, 20.0, 20.0)))
    [answer] = service.segmenter.predict(typed("tram"))
    assert labels(answer) == [()]
    assert answer.reasons == (Reason.UNKNOWN_LABEL,)
    assert "tram" in answer.skipped[0].detail


def test_an_object_keeps_its_id_when_it_is_asked_for_again_and_other_words_have_other_ids(service):
    cats, again, dogs = (
        {region.id for region in service.segmenter.predict(typed(text))[0].result}
        for text in ("cat", "cat, dog", "dog")
    )
    assert cats < again
    assert again == cats | dogs
    assert not cats & dogs


def test_words_on_one_image_of_several_are_looked_for_there(service, detector):
    request = messages.parse_predict(encoded(recorded("words_on_item1")))
    service.source.contents[request.tasks[0].data["pages"][1]] = png((1, 2, 3), (100, 50))
    detector.boxes = [("blue", 0.8, (30.0, 10.0, 50.0, 30.0))]
    [answer] = service.segmenter.predict(request)
    assert detector.calls[0][0] == (50, 100, 3)
    assert {region.item_index for region in answer.result} == {1}


def test_words_beside_a_click_are_answered_with_it(service):
    size = {"original_width": SIZE_WH[0], "original_height": SIZE_WH[1]}
    body = click(words("dog"), result(**size))
    [answer] = service.segmenter.predict(messages.parse_predict(encoded(body)))
    assert labels(answer) == [("Dog",), ("Cat",)]


# What is not


@pytest.mark.parametrize("name", ["comment", "words", "my_segment_words", ""])
def test_other_text_areas_find_nothing(service, detector, name):
    [answer] = service.segmenter.predict(typed("cat", from_name=name))
    assert (answer.result, answer.reasons) == ((), (Reason.NOT_A_PROMPT,))
    assert not detector.calls
    assert not service.source.fetched


def test_without_a_detector_the_answer_is_empty_and_says_what_to_set():
    with Service() as service:
        [answer] = service.segmenter.predict(typed("cat"))
    assert (answer.result, answer.reasons) == ((), (Reason.NO_DETECTOR,))
    assert "PADDLE_SAM_DETECTOR" in Reason.NO_DETECTOR.remedy


def test_words_without_an_object_are_answered_with_nothing(service):
    [answer] = service.segmenter.predict(typed("unicorn=cat"))
    assert (answer.result, answer.reasons) == ((), (Reason.NOTHING_FOUND,))
    assert not service.encoder.calls


def test_words_that_the_detector_cannot_look_for_are_left_out(service, detector):
    [answer] = service.segmenter.predict(typed("猫=cat, dog"))
    assert detector.calls[0][1] == ("dog",)
    assert labels(answer) == [("Dog",)]
    assert answer.reasons == (Reason.UNKNOWN_WORD,)
    assert "猫" in answer.skipped[0].detail


def test_labels_in_chinese_alone_find_nothing_and_labels_with_a_prompt_are_found(service, detector):
    [answer] = service.segmenter.predict(typed("", config=config('<Label value="猫"/><Label value="狗"/>')))
    assert (answer.result, answer.reasons) == ((), (Reason.UNKNOWN_WORD,))
    assert not detector.calls
    [answer] = service.segmenter.predict(
        typed("猫", config=config('<Label value="猫" prompt="cat"/><Label value="狗"/>'))
    )
    assert labels(answer) == [("猫",), ("猫",)]


def test_a_text_without_a_word_is_not_put_down_to_the_labeling_config(service, detector):
    [answer] = service.segmenter.predict(typed("=Cat, =", config=config('<Label value="Cat"/>')))
    assert (answer.result, answer.reasons) == ((), (Reason.UNKNOWN_WORD,))
    assert "expected words such as" in answer.skipped[0].detail
    assert not detector.calls


def test_two_labels_with_one_spelling_are_refused_where_both_are_looked_for(service, detector):
    two_cats = config('<Label value="Cat"/><Label value="cat"/>')
    [answer] = service.segmenter.predict(typed("", config=two_cats))
    assert (answer.result, answer.reasons) == ((), (Reason.BAD_LABEL_CONFIG,))
    assert "give one of them another" in answer.skipped[0].detail
    [answer] = service.segmenter.predict(typed("Cat", config=two_cats))
    assert set(labels(answer)) == {("Cat",)}


def test_several_hundred_words_are_looked_for(service, detector):
    many = ", ".join(f"thing {number}" for number in range(600))
    [answer] = service.segmenter.predict(typed(f"{many}, cat"))
    assert len(detector.calls[0][1]) == 601
    assert labels(answer) == [("Cat",), ("Cat",)]


@pytest.mark.parametrize("text", [", ".join(f"thing {number}" for number in range(1200)), "x" * 60_000, "x" * 1001])
def test_more_words_than_one_request_may_hold_are_refused(service, detector, text):
    [answer] = service.segmenter.predict(typed(text))
    assert (answer.result, answer.reasons) == ((), (Reason.TOO_COMPLEX,))
    assert not detector.calls


def test_of_hundreds_of_objects_the_best_are_answered(service, detector):
    rows = [(x, y) for x in range(0, 76, 4) for y in range(0, 56, 4)]
    detector.boxes = [("cat", 0.1 + 0.0001 * number, (x, y, x + 3.0, y + 3.0)) for number, (x, y) in enumerate(rows)]
    assert len(rows) > 256
    [answer] = service.segmenter.predict(typed("cat"))
    assert len(answer.result) == 256
    assert min(region.score for region in answer.result) == pytest.approx(0.1 + 0.0001 * (len(rows) - 256))
    assert answer.reasons == (Reason.TOO_COMPLEX,)


def test_a_broken_image_and_a_broken_detector_leave_an_empty_answer_with_a_reason(service, detector):
    service.source.contents["/gone.png"] = ImageError("not there", Reason.IMAGE_NOT_FOUND)
    [answer] = service.segmenter.predict(typed("cat", uri="/gone.png"))
    assert (answer.result, answer.reasons) == ((), (Reason.IMAGE_NOT_FOUND,))
    detector.failures.append(RuntimeError("no such operator"))
    [answer] = service.segmenter.predict(typed("cat"))
    assert (answer.result, answer.reasons) == ((), (Reason.ENCODE_FAILED,))


# What is kept


def test_asking_again_and_the_masks_of_the_same_image_afterwards_are_warm(service, detector):
    for _ in range(2):
        service.segmenter.predict(typed("cat"))
    size = {"original_width": SIZE_WH[0], "original_height": SIZE_WH[1]}
    [clicked] = service.segmenter.predict(messages.parse_predict(encoded(click(result(**size)))))
    assert clicked.result
    assert (len(detector.calls), service.encoder.calls, len(service.source.fetched)) == (1, 1, 1)


def test_an_image_that_is_encoded_already_is_not_encoded_again(service, detector):
    size = {"original_width": SIZE_WH[0], "original_height": SIZE_WH[1]}
    service.segmenter.predict(messages.parse_predict(encoded(click(result(**size)))))
    [answer] = service.segmenter.predict(typed("cat"))
    assert answer.result
    assert (len(detector.calls), service.encoder.calls) == (1, 1)


def test_the_same_picture_at_another_address_is_not_looked_at_again(service, detector):
    service.source.contents["/copy.jpg"] = service.source.contents[IMAGE]
    for uri in (IMAGE, "/copy.jpg"):
        assert service.segmenter.predict(typed("cat", uri=uri))[0].result
    assert (len(detector.calls), service.encoder.calls) == (1, 1)


def test_words_that_are_not_found_in_time_are_found_on(detector):
    policy = ClickPolicy(wait_s=0.05, vocabulary=detector)
    with Service(detector=detector, policy=policy) as service:
        detector.gate.clear()
        [answer] = service.segmenter.predict(typed("cat"))
        assert (answer.result, answer.reasons) == ((), (Reason.BUDGET_EXCEEDED,))
        detector.gate.set()
        wait_until(lambda: service.segmenter.predict(typed("cat"))[0].result)
        assert len(detector.calls) == 1


def test_requests_for_the_same_words_share_one_look(service, detector):
    detector.gate.clear()
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(service.segmenter.predict(typed("cat"))[0])) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: service.count("paddle_sam_encodes_shared_total") == 3)
    detector.gate.set()
    for thread in threads:
        thread.join(SOON_S)
    assert [len(answer.result) for answer in answers] == [2] * 4
    assert len(detector.calls) == 1
