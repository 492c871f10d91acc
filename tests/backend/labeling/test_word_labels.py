"""Which words a detector looks for: the labels of a config, or a text."""

import pytest

from backend.errors import ConfigError, Reason, RequestError
from backend.labeling import config
from backend.labeling.word_labels import of_labels, of_text, typed, unlabelled

IMAGE = '<Image name="image" value="$image"/>'


def controls(*labels, tag="BrushLabels", more=""):
    return config.parse(f'<View>{IMAGE}<{tag} name="brush" toName="image">{"".join(labels)}</{tag}>{more}</View>')


def test_every_label_is_a_word_spelled_by_its_prompt_its_alias_or_its_value():
    queries = of_labels(
        controls(
            '<Label value="Cat"/>',
            '<Label value="汽车" alias="car"/>',
            '<Label value="Fußgänger" prompt="walking man, pedestrian"/>',
            '<Label value="Hund" alias="dog_v2" prompt="dog"/>',
        )
    )
    assert queries == {
        "Cat": "Cat",
        "car": "car",
        "walking man": "Fußgänger",
        "pedestrian": "Fußgänger",
        "dog": "dog_v2",
    }


def test_labels_of_separate_tags_and_of_several_controls_count_once_each():
    more = '<Labels name="labels" toName="image"><Label value="Dog"/><Label value="Cat"/></Labels>'
    more += '<Brush name="plain" toName="image"/>'
    assert of_labels(controls('<Label value="Cat"/>', more=more)) == {"Cat": "Cat", "Dog": "Dog"}


@pytest.mark.parametrize(
    "labels",
    [
        ['<Label value="Car"/>', '<Label value="car"/>'],
        ['<Label value="Auto" prompt="car"/>', '<Label value="Wagen" prompt="Car"/>'],
    ],
)
def test_two_labels_with_one_spelling_are_refused(labels):
    with pytest.raises(ConfigError, match=r"expected a word for each, got '[Cc]ar' for both; give one of them another"):
        of_labels(controls(*labels))


def test_a_config_without_labels_has_no_words():
    with pytest.raises(ConfigError, match="expected labels in the labeling config, got none"):
        of_labels(config.parse(f'<View>{IMAGE}<Brush name="brush" toName="image"/></View>'))


def test_the_words_of_a_text_get_the_labels_that_they_name():
    known = controls('<Label value="Person"/>', '<Label value="Bus"/>')
    assert of_text("walking man=person, bus", known) == {"walking man": "Person", "bus": "Bus"}
    plain = config.parse(f'<View>{IMAGE}<Brush name="brush" toName="image"/></View>')
    assert of_text("walking man, bus", plain) == {"walking man": "", "bus": ""}


@pytest.mark.parametrize("text", [" , ", "=Person"])
def test_a_text_without_words_is_refused(text):
    with pytest.raises(ConfigError, match="expected words such as"):
        of_text(text, controls('<Label value="Person"/>'))


@pytest.mark.parametrize("text", ["tram", "walking man=Man"])
def test_words_of_a_text_without_a_label_are_named(text):
    config = controls('<Label value="Person"/>')
    [(word, label)] = of_text(text, config).items()
    assert (word, label, unlabelled({word: label}, config)) == (text.partition("=")[0], "", (word,))


def test_where_labels_come_with_each_task_any_label_is_taken():
    vary = config.parse(
        f'<View>{IMAGE}<BrushLabels name="brush" toName="image" value="$all"><Label value="Cat"/></BrushLabels></View>'
    )
    assert of_text("tram=Wagen, cat", vary) == {"tram": "Wagen", "cat": "Cat"}


def test_the_name_of_a_label_is_spelled_by_its_prompt_and_the_words_of_a_prompt_name_the_label():
    config = controls('<Label value="Fußgänger" prompt="walking man, pedestrian"/>', '<Label value="Bus" alias="b"/>')
    assert of_text("fußgänger, bus", config) == {"walking man": "Fußgänger", "pedestrian": "Fußgänger", "bus": "b"}
    assert of_text("Pedestrian", config) == {"Pedestrian": "Fußgänger"}


def test_of_two_labels_in_different_case_the_one_that_is_written_so_is_meant():
    config = controls('<Label value="Cat"/>', '<Label value="cat"/>')
    assert of_text("cat", config) == {"cat": "cat"}
    assert of_text("Cat", config) == {"Cat": "Cat"}


def test_a_word_with_two_labels_is_refused():
    with pytest.raises(ConfigError, match="labels 'Cat' and 'Dog': expected a word for each, got 'PET' for both"):
        of_text("pet=Cat, PET=Dog", controls('<Label value="Cat"/>', '<Label value="Dog"/>'))


@pytest.mark.parametrize("text", ["", " ", "*", " * ", ",;"])
def test_a_typed_text_without_words_means_all_labels(text):
    assert typed(text, controls('<Label value="Cat"/>', '<Label value="Dog"/>')) == {"Cat": "Cat", "Dog": "Dog"}


def test_a_typed_text_of_too_many_words_is_refused():
    config = controls('<Label value="Cat"/>')
    with pytest.raises(RequestError, match="expected at most 1,000 of at most 1,000 characters, got 1,001") as error:
        typed(",".join(map(str, range(1001))), config)
    assert error.value.reason is Reason.TOO_COMPLEX


def test_a_label_of_spaces_alone_is_no_word():
    assert of_labels(controls('<Label value=" "/><Label value="Cat"/>')) == {"Cat": "Cat"}
