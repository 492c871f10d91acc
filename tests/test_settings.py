"""Environment variables to settings: typed, checked at once, secrets unseen."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from backend.settings import NAMES, Settings, SettingsError, read
from backend.shapes import OUTPUT_KINDS, ShapeKind
from tests.documents import document


def problems(environ):
    with pytest.raises(SettingsError) as caught:
        read(environ)
    return caught.value.problems


def test_an_empty_environment_gives_settings_that_work_beside_a_local_label_studio():
    settings = read({})
    assert settings.label_studio_url == "http://localhost:8080"
    assert settings.port == 9090
    assert settings.label_studio_api_key is None
    assert settings.predict_budget_s == 90 < 100


def test_the_address_for_browsers_is_an_address_or_unset():
    assert read({}).label_studio_public_url is None
    settings = read({"PADDLE_SAM_LABEL_STUDIO_PUBLIC_URL": "https://ls.example.com/prefix/"})
    assert settings.label_studio_public_url == "https://ls.example.com/prefix"
    for wrong in ("ls.example.com", "/prefix", "https://ls.example.com?a=b", "ftp://ls"):
        (problem,) = problems({"PADDLE_SAM_LABEL_STUDIO_PUBLIC_URL": wrong})
        assert problem.startswith(f"PADDLE_SAM_LABEL_STUDIO_PUBLIC_URL={wrong}: expected an address such as")


def test_what_browsers_reach_label_studio_at_is_not_connected_to_and_may_be_any_address():
    url = "http://0.0.0.0:8080"
    assert read({"PADDLE_SAM_LABEL_STUDIO_PUBLIC_URL": url}).label_studio_public_url == url


def test_an_empty_value_counts_as_unset():
    assert read({"PORT": "", "LABEL_STUDIO_API_KEY": " "}) == read({})


def test_values_are_parsed_into_their_types():
    settings = read(
        {
            "LABEL_STUDIO_URL": "https://ls.example.com/prefix/",
            "WORKERS": "2",
            "PADDLE_SAM_CACHE_DIR": "/somewhere/else",
            "PADDLE_SAM_ALLOWED_HOSTS": "MinIO:9000, 10.1.0.0/16,fd00::/8",
            "PADDLE_SAM_OUTPUT_PREFERENCE": "Polygon, brush",
            "PADDLE_SAM_FETCH_TIMEOUT_S": "2.5",
            "LOG_LEVEL": "DEBUG",
        }
    )
    assert settings.label_studio_url == "https://ls.example.com/prefix"
    assert settings.workers == 2
    assert settings.cache_dir == Path("/somewhere/else")
    assert settings.allowed_hosts == ("minio:9000", "10.1.0.0/16", "fd00::/8")
    assert settings.output_preference == (ShapeKind.POLYGON, ShapeKind.BRUSH)
    assert settings.fetch_timeout_s == 2.5
    assert settings.log_level == "debug"


@pytest.mark.parametrize(("value", "device"), [("CUDA:1", "gpu:1"), ("gpu", "gpu"), ("cuda", "gpu"), ("cpu", "cpu")])
@pytest.mark.parametrize("name", ["DEVICE", "PADDLE_SAM_DEVICE"])
def test_a_device_may_be_named_in_the_usual_ways(name, value, device):
    assert read({name: value}).device == device


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("PORT", "http", "a whole number"),
        ("PORT", "70000", "less than or equal to 65535"),
        ("WORKERS", "0", "greater than or equal to 1"),
        ("LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("LABEL_STUDIO_URL", "localhost:8080", "http://localhost:8080"),
        ("LABEL_STUDIO_URL", "http://localhost:port", "http://localhost:8080"),
        ("LABEL_STUDIO_URL", "http://0.0.0.0:8080", "http://localhost:8080 or its machine's name"),
        ("LABEL_STUDIO_URL", "http://[::]:8080/ls", "http://localhost:8080 or its machine's name"),
        ("LABEL_STUDIO_URL", "http://0", "http://localhost:8080 or its machine's name"),
        ("DEVICE", "tpu", "auto, cpu, gpu or gpu:N"),
        ("PADDLE_SAM_PREDICT_BUDGET_S", "0", "greater than 0"),
        ("PADDLE_SAM_ALLOWED_HOSTS", "http://minio", "minio:9000"),
        ("PADDLE_SAM_OUTPUT_PREFERENCE", "brush, keypoint", "brush, bitmask, polygon, vector, rectangle, ellipse"),
        ("PADDLE_SAM_EMBEDDING_DTYPE", "int8", "'float16' or 'float32'"),
        ("PADDLE_SAM_REDIS_PREFIX", "a b", "letters, digits"),
        ("PADDLE_SAM_REDIS_TTL_S", "0", "greater than or equal to 1"),
        ("PADDLE_SAM_PREFETCH_TASKS", "2.5", "a whole number"),
        ("PADDLE_SAM_FETCH_TIMEOUT_S", "soon", "a number"),
        ("PADDLE_SAM_FETCH_TIMEOUT_S", "nan", "a number"),
        ("PADDLE_SAM_FETCH_TIMEOUT_S", "inf", "a number"),
        ("MODEL_DIR", __file__, "a directory, not a file"),
        ("PADDLE_SAM_CACHE_DIR", __file__, "a directory, not a file"),
    ],
)
def test_a_wrong_value_is_answered_with_its_name_its_value_and_what_was_expected(name, value, expected):
    (problem,) = problems({name: value})
    assert problem.startswith(f"{name}={value}: expected ")
    assert expected in problem


def test_all_problems_are_told_at_once():
    assert len(problems({"PORT": "x", "WORKERS": "x", "PADDLE_SAM_PREFETCH_TASK": "3"})) == 3


def test_what_takes_two_settings_to_see_is_told_at_once_with_the_rest(tmp_path):
    given = {"PORT": "x", "BASIC_AUTH_USER": "me", "PADDLE_SAM_LOCAL_FILES_ROOT": str(tmp_path / "none")}
    found = problems(given)
    assert len(found) == 3
    assert any("both or neither" in problem for problem in found)


def test_a_misspelt_name_of_ours_is_refused_with_the_likely_one():
    assert problems({"PADDLE_SAM_MEMORY_CACH_MB": "3"}) == (
        "PADDLE_SAM_MEMORY_CACH_MB: not a setting; did you mean PADDLE_SAM_MEMORY_CACHE_MB?",
    )


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("PADDLE_SAM_WEIGHT", "PADDLE_SAM_WEIGHTS"),
        ("paddle_sam_weights", "PADDLE_SAM_WEIGHTS"),
        ("PADDLESAM_CACHE_DIR", "PADDLE_SAM_CACHE_DIR"),
        ("PADDLE_SAM_PORT", "PADDLE_SAM_WEIGHTS"),
    ],
)
def test_every_way_of_writing_our_prefix_counts_as_ours(name, meant):
    (problem,) = problems({name: "1"})
    assert problem.startswith(f"{name}: not a setting; ")
    assert meant in problem


def test_every_setting_says_what_it_is_for():
    assert [name for name, field in Settings.model_fields.items() if not (field.description or "").endswith(".")] == []


def test_a_home_directory_may_be_written_short():
    assert read({"MODEL_DIR": "~/weights"}).model_dir == Path.home() / "weights"
    assert read({"MODEL_DIR": "~nobody-of-that-name/weights"}).model_dir == Path("~nobody-of-that-name/weights")


def test_a_refused_value_is_told_on_one_line_of_sensible_length():
    (problem,) = problems({"PORT": "9090\nfalse line " + "x" * 10_000})
    assert "\n" not in problem
    assert len(problem) < 300


@pytest.mark.parametrize("url", ["http://me:secret-123@host", "http://me:secret/123@host", "ftp://secret-123@a@host"])
def test_credentials_in_a_refused_address_are_not_told(url):
    (problem,) = problems({"LABEL_STUDIO_URL": url})
    assert "//***@host: expected an address" in problem


def test_variables_of_other_programs_are_left_alone():
    assert read({"PATH": "/bin", "HOSTNAME": "3f2a", "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true"}) == read({})


@pytest.mark.parametrize("given", [{"BASIC_AUTH_USER": "me"}, {"BASIC_AUTH_PASS": "pw"}])
def test_half_a_basic_auth_is_refused(given):
    (problem,) = problems(given)
    assert "both or neither" in problem


def test_a_local_files_root_must_exist(tmp_path):
    assert read({"PADDLE_SAM_LOCAL_FILES_ROOT": str(tmp_path)}).local_files_root == tmp_path
    (problem,) = problems({"PADDLE_SAM_LOCAL_FILES_ROOT": str(tmp_path / "none")})
    assert "a directory that exists" in problem


def test_secrets_do_not_show_in_the_settings_or_in_their_problems():
    environ = {"LABEL_STUDIO_API_KEY": "key-123", "BASIC_AUTH_USER": "me", "BASIC_AUTH_PASS": "pass-123"}
    settings = read(environ)
    assert settings.label_studio_api_key is not None
    assert settings.label_studio_api_key.value == "key-123"
    assert "123" not in repr(settings) + str(settings)
    told = "".join(problems({**environ, "PORT": "x", "LABEL_STUDIO_URL": "http://me:secret-123@host"}))
    assert "123" not in told


def test_settings_cannot_be_changed_later():
    with pytest.raises(ValueError, match="frozen"):
        read({}).port = 1


@given(st.dictionaries(st.sampled_from(NAMES), st.text(st.characters(exclude_characters="\0"), max_size=20)))
@hypothesis_settings(deadline=None)
def test_any_environment_gives_settings_or_named_problems(environ):
    found = ()
    try:
        read(environ)
    except SettingsError as error:
        found = error.problems
    assert all(problem.split("=")[0] in NAMES or "both or neither" in problem for problem in found)


@pytest.mark.parametrize(
    "url",
    ["redis://redis:6379/0", "rediss://:word@redis.example.com", "redis://user:word@[::1]/3", "unix:///run/redis"],
)
def test_an_address_of_redis_may_hold_a_password_and_never_shows_it(url):
    settings = read({"REDIS_URL": f" {url} "})
    assert settings.redis_url is not None
    assert settings.redis_url.value == url
    assert "word" not in repr(settings)


@pytest.mark.parametrize("url", ["http://:word@redis", "redis:6379", "redis://:word@host:port", "unix:", "redis://"])
def test_another_address_is_refused_without_showing_it(url):
    (problem,) = problems({"REDIS_URL": url})
    assert problem.startswith("REDIS_URL=***: expected an address such as redis://")
    assert "word@host" not in problem


def test_the_order_of_outputs_as_the_documentation_prints_it_can_be_set_and_is_the_default():
    prose = " ".join("\n".join(document("docs/labeling-configs.md").prose).split())
    [printed] = re.findall(r"order of `PADDLE_SAM_OUTPUT_PREFERENCE` \(([^)]+)\)", prose)
    given = read({"PADDLE_SAM_OUTPUT_PREFERENCE": printed})
    assert given.output_preference == read({}).output_preference == OUTPUT_KINDS
