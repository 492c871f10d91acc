"""Environment variables to settings: typed, checked at once, secrets unseen."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from backend.settings import NAMES, Settings, SettingsError, read
from backend.shapes import OUTPUT_KINDS, Detail, ShapeKind
from tests.support.markdown import ROOT, document


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


def test_the_detail_of_regions_is_set_as_a_whole():
    environ = {"PADDLE_SAM_POLYGON_TOLERANCE": "1.5", "PADDLE_SAM_POLYGON_CORNERS": "50", "PADDLE_SAM_MIN_AREA": "20"}
    assert read(environ).detail == Detail(tolerance=1.5, corners=50, min_area=20)
    assert read({}).detail == Detail(corners=400)


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
        ("PADDLE_SAM_POLYGON_TOLERANCE", "-1", "greater than or equal to 0"),
        ("PADDLE_SAM_POLYGON_CORNERS", "3", "greater than or equal to 4"),
        ("PADDLE_SAM_MIN_AREA", "some", "a number"),
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


def test_all_problems_are_reported_at_once():
    assert len(problems({"PORT": "x", "WORKERS": "x", "PADDLE_SAM_PREFETCH_TASK": "3"})) == 3


def test_a_problem_of_two_settings_together_is_reported_with_the_rest(tmp_path):
    environ = {"PORT": "x", "BASIC_AUTH_USER": "me", "PADDLE_SAM_LOCAL_FILES_ROOT": str(tmp_path / "none")}
    messages = problems(environ)
    assert len(messages) == 3
    assert any("both or neither" in problem for problem in messages)


def test_a_misspelt_name_of_ours_is_refused_with_the_likely_one():
    assert problems({"PADDLE_SAM_MEMORY_CACH_MB": "3"}) == (
        "PADDLE_SAM_MEMORY_CACH_MB: not a setting; did you mean PADDLE_SAM_MEMORY_CACHE_MB?",
    )


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("PADDLE_SAM_WEIGHT", "PADDLE_SAM_WEIGHTS"),
        ("paddle_sam_weights", "PADDLE_SAM_WEIGHTS"),
        ("PADDLESAM_CACHE_DIR", "PADDLE_SAM_CACHE_DIR"),
        ("PADDLE_SAM_PORT", "mean PORT?"),
        ("PADDLE_SAM_LABEL_STUDIO_URL", "mean LABEL_STUDIO_URL?"),
        ("PADDLE_SAM_BUDGET", "PADDLE_SAM_PREDICT_BUDGET_S"),
    ],
)
def test_every_way_of_writing_our_prefix_counts_as_ours(name, suggestion):
    (problem,) = problems({name: "1"})
    assert problem.startswith(f"{name}: not a setting; ")
    assert suggestion in problem


SERVICE_LINKS = """\
{0}_SERVICE_HOST=10.0.48.109
{0}_SERVICE_PORT=9090
{0}_SERVICE_PORT_HTTP=9090
{0}_PORT=tcp://10.0.48.109:9090
{0}_PORT_9090_TCP=tcp://10.0.48.109:9090
{0}_PORT_9090_TCP_PROTO=tcp
{0}_PORT_9090_TCP_PORT=9090
{0}_PORT_9090_TCP_ADDR=10.0.48.109
"""
"""Variables that Kubernetes sets in each container for each service of its namespace, if enableServiceLinks is true."""


@pytest.mark.parametrize("service", [
    "PADDLE_SAM", "PADDLE_SAM_REDIS", "PADDLE_SAM_WEIGHTS", "PADDLE_SAM_WORKERS", "PADDLE_SAM_LABEL_STUDIO",
    "PADDLE_SAM_MAX_IMAGE_BYTES", "SAM", "REDIS", "LABEL_STUDIO", "LABEL_STUDIO_URL", "BASIC_AUTH", "MODEL", "DEVICE",
])  # fmt: skip
def test_what_kubernetes_says_of_a_service_of_any_name_is_not_taken_for_settings(service):
    links = dict(line.split("=") for line in SERVICE_LINKS.format(service).splitlines())
    assert read(links) == read({})


@pytest.mark.parametrize("name", ["VERSION", "IMAGE_TAG", "NAMESPACE", "HOME", "REPLICAS", "COMMIT", "ENV"])
def test_names_that_begin_like_ours_and_are_like_none_belong_to_other_programs(name):
    assert read({f"PADDLE_SAM_{name}": "1"}) == read({})


def test_the_name_of_a_container_image_is_not_taken_for_a_size():
    assert read({"PADDLE_SAM_IMAGE": "registry.example.com/sam:1.0"}) == read({})


@pytest.mark.parametrize("pasted", [
    "{}", '"{}"', "'{}'", " {} ", "{}\n", "Token {}", "token  {}", "Bearer {}", '"Token {}"', 'Token "{}"', "Token: {}",
    "Authorization: Token {}", "Authorization: Bearer {}", "\ufeff{}\u200b", "\u201c{}\u201d", "`{}`", "{}\r\n",
])  # fmt: skip
@pytest.mark.parametrize("token", ["0123456789abcdef0123456789abcdef01234567", "eyJh.eyJ0b2tlbl90eXBlIjoi.c2lnbmVk-_"])
def test_a_token_may_be_pasted_with_what_stood_around_it(pasted, token):
    key = read({"LABEL_STUDIO_API_KEY": pasted.format(token)}).label_studio_api_key
    assert key is not None
    assert key.value == token


def test_a_token_that_was_broken_over_lines_is_put_together_again():
    assert read({"LABEL_STUDIO_API_KEY": "eyJh.eyJ0\n  b2tl.c2ln"}).label_studio_api_key.value == "eyJh.eyJ0b2tl.c2ln"


@pytest.mark.parametrize("wrong", ["\u00e9clair", '""', "Token ''", "\u200b"])
def test_what_cannot_be_a_token_is_refused_without_showing_it(wrong):
    (problem,) = problems({"LABEL_STUDIO_API_KEY": wrong})
    assert problem.startswith("LABEL_STUDIO_API_KEY=***: expected a token")


def test_quotation_marks_that_no_shell_took_away_do_not_count_but_in_a_login():
    quoted = {"LABEL_STUDIO_URL": '"http://ls:8080"', "PORT": "'9191'", "REDIS_URL": '"redis://r:6379/0"'}
    login = {"BASIC_AUTH_USER": '"me"', "BASIC_AUTH_PASS": '"word"'}
    settings = read(quoted | login)
    assert (settings.label_studio_url, settings.port) == ("http://ls:8080", 9191)
    assert (settings.redis_url.value, settings.basic_auth_pass.value) == ("redis://r:6379/0", '"word"')


def test_every_setting_says_what_it_is_for():
    assert [name for name, field in Settings.model_fields.items() if not (field.description or "").endswith(".")] == []


def test_a_home_directory_may_be_written_short():
    assert read({"MODEL_DIR": "~/weights"}).model_dir == Path.home() / "weights"
    assert read({"MODEL_DIR": "~nobody-of-that-name/weights"}).model_dir == Path("~nobody-of-that-name/weights")


def test_a_refused_value_is_shown_on_one_line_of_sensible_length():
    (problem,) = problems({"PORT": "9090\nfalse line " + "x" * 10_000})
    assert "\n" not in problem
    assert len(problem) < 300


@pytest.mark.parametrize("url", ["http://me:secret-123@host", "http://me:secret/123@host", "ftp://secret-123@a@host"])
def test_credentials_in_a_refused_address_are_not_shown(url):
    (problem,) = problems({"LABEL_STUDIO_URL": url})
    assert "//***@host: expected an address" in problem


def test_variables_of_other_programs_are_left_alone():
    assert read({"PATH": "/bin", "HOSTNAME": "3f2a", "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true"}) == read({})


@pytest.mark.parametrize("environ", [{"BASIC_AUTH_USER": "me"}, {"BASIC_AUTH_PASS": "pw"}])
def test_half_a_basic_auth_is_refused(environ):
    (problem,) = problems(environ)
    assert "both or neither" in problem


def test_memory_for_what_waits_has_room_for_the_largest_request_and_file():
    environ = {"PADDLE_SAM_MAX_BODY_MB": "50", "PADDLE_SAM_MAX_IMAGE_BYTES": "70000000", "PADDLE_SAM_BUFFER_MB": "269"}
    (problem,) = problems(environ)
    assert "PADDLE_SAM_BUFFER_MB: expected at least 270" in problem
    assert "got 269" in problem
    assert read(environ | {"PADDLE_SAM_BUFFER_MB": "270"}).buffer_bytes == 170_000_000
    assert read({}).buffer_bytes == 900_000_000
    assert read({"PADDLE_SAM_MAX_BODY_MB": "500"}).buffer_bytes == 1_200_000_000, "it follows the limits where unset"


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
    messages = "".join(problems({**environ, "PORT": "x", "LABEL_STUDIO_URL": "http://me:secret-123@host"}))
    assert "123" not in messages


def test_settings_cannot_be_changed_later():
    with pytest.raises(ValueError, match="frozen"):
        read({}).port = 1


@given(st.dictionaries(st.sampled_from(NAMES), st.text(st.characters(exclude_characters="\0"), max_size=20)))
@hypothesis_settings(deadline=None)
def test_any_environment_gives_settings_or_named_problems(environ):
    messages = ()
    try:
        read(environ)
    except SettingsError as error:
        messages = error.problems
    assert all(problem.split("=")[0] in NAMES or "both or neither" in problem for problem in messages)


@pytest.mark.parametrize(
    "url",
    ["redis://redis:6379/0", "rediss://:word@redis.example.com", "redis://user:word@[::1]/3", "unix:///run/redis"],
)
def test_an_address_of_redis_may_hold_a_password_and_never_shows_it(url):
    settings = read({"REDIS_URL": f" {url} "})
    assert settings.redis_url is not None
    assert settings.redis_url.value == url
    assert "word" not in repr(settings)


@pytest.mark.parametrize("password", [
    "wo#rd", "wo/rd", "wo@rd", "wo?rd", "1/word", "6379/word", "wo[rd", "wo]rd", "wo%rd", "wo rd", "w\u2100rd",
    "%zzword",
])  # fmt: skip
@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_a_password_that_cuts_an_address_short_must_be_percent_encoded_and_is_not_shown(scheme, password):
    (problem,) = problems({"REDIS_URL": f"{scheme}://me:{password}@cache:6379/0"})
    assert problem.startswith("REDIS_URL=***: expected ")
    assert "rd" not in problem.replace("password", "")
    if password != "w\u2100rd":  # taken apart by Python's own rules for names of hosts
        assert "percent-encoded, # as %23" in problem


def test_a_percent_encoded_password_is_taken():
    url = "redis://me:w%23%2F%40%3F%25rd@cache:6379/0"
    assert read({"REDIS_URL": url}).redis_url.value == url


@pytest.mark.parametrize("options", ["?db=x", "?ssl=true", "?nonsense=1", "?socket_timeout=soon"])
def test_an_option_that_the_client_does_not_know_is_refused_at_the_start(options):
    (problem,) = problems({"REDIS_URL": f"redis://:word@cache:6379/0{options}"})
    assert "options" in problem
    assert "word" not in problem


@pytest.mark.parametrize("name", ["LABEL_STUDIO_URL", "REDIS_URL", "PADDLE_SAM_LABEL_STUDIO_PUBLIC_URL"])
@pytest.mark.parametrize("url", ["http://[::1", "redis://[x", "http://a]b/"])
def test_brackets_that_are_not_paired_are_no_address(name, url):
    (problem,) = problems({name: url})
    assert "expected an address such as" in problem


@pytest.mark.parametrize("url", ["http://:word@redis", "redis:6379", "redis://:word@host:port", "unix:", "redis://"])
def test_another_address_is_refused_without_showing_it(url):
    (problem,) = problems({"REDIS_URL": url})
    assert problem.startswith("REDIS_URL=***: expected an address such as redis://")
    assert "word@host" not in problem


@pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="reads the source tree's own files")
def test_the_order_of_outputs_as_the_documentation_prints_it_can_be_set_and_is_the_default():
    prose = " ".join("\n".join(document("docs/labeling-configs.md").prose).split())
    [printed] = re.findall(r"order of `PADDLE_SAM_OUTPUT_PREFERENCE` \(([^)]+)\)", prose)
    settings = read({"PADDLE_SAM_OUTPUT_PREFERENCE": printed})
    assert settings.output_preference == read({}).output_preference == OUTPUT_KINDS
