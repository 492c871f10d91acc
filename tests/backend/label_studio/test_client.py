"""The client of Label Studio: tokens of every kind, refusals with their remedy, retries."""

import json
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs

import msgspec
import pytest

from backend.errors import AccessError, Reason, RequestError, RetryLater
from backend.label_studio.client import LabelStudio
from backend.label_studio.http import ForbiddenError, LabelStudioHttp, RefusedError
from backend.label_studio.tokens import TokenExchange, TokenKind, lifetime_s, token_kind
from backend.label_studio.types import NewPrediction, StoredPrediction
from backend.types import Secret
from tests.support.fakes import LEGACY_TOKEN, PERSONAL_TOKEN, FakeClock, FakeLabelStudio, Reply, jwt


@pytest.fixture
def server():
    with FakeLabelStudio() as server:
        server.routes["/api/current-user/whoami"] = Reply(b'{"id": 1, "email": "me@example.com", "username": "me"}')
        yield server


@pytest.fixture
def connect(server):
    clients = []

    def open_client(token=PERSONAL_TOKEN, url=None, **options):
        secret = None if token is None else Secret(token)
        clients.append(LabelStudio(LabelStudioHttp(url or server.url, secret, retry_wait_s=0.001, **options)))
        return clients[-1]

    yield open_client
    for client in clients:
        client.http.close()


@pytest.mark.parametrize(
    ("token", "kind"),
    [
        (None, TokenKind.NONE),
        ("", TokenKind.NONE),
        (LEGACY_TOKEN, TokenKind.LEGACY),
        (PERSONAL_TOKEN, TokenKind.PERSONAL),
        (jwt(token_type="access"), TokenKind.ACCESS),
        (PERSONAL_TOKEN.rpartition(".")[0], TokenKind.CUT),
        ("two.dots.nothing", TokenKind.LEGACY),
        ("one.dot", TokenKind.LEGACY),
        ("a.!!!.c", TokenKind.LEGACY),
    ],
)
def test_a_token_is_recognised_by_its_form(token, kind):
    assert token_kind(None if token is None else Secret(token)) is kind


@pytest.mark.parametrize(
    ("claims", "seconds"), [({"iat": 100, "exp": 400}, 300), ({}, 300), ({"iat": 9, "exp": 5}, 300)]
)
def test_an_access_token_lasts_as_long_as_it_says_whatever_the_clocks_are(claims, seconds):
    assert lifetime_s(jwt(**claims)) == seconds


def test_a_legacy_token_goes_into_the_header_as_it_is(connect, server):
    assert connect(LEGACY_TOKEN).user() == "me@example.com"
    assert server.requests[-1].headers["authorization"] == f"Token {LEGACY_TOKEN}"


def test_a_personal_token_is_exchanged_once_and_never_sent_itself(connect, server):
    client = connect()
    assert client.user() == client.user() == "me@example.com"
    assert server.refreshes == 1
    requests = [request for request in server.requests if request.path != "/api/token/refresh"]
    assert all(request.headers["authorization"].startswith("Bearer ") for request in requests)
    assert not any(PERSONAL_TOKEN in request.headers["authorization"] for request in requests)


def test_an_access_token_is_renewed_before_it_expires(connect, server):
    clock = FakeClock()
    client = connect(clock=clock)
    client.user()
    clock.advance(235)
    client.user()
    assert server.refreshes == 1
    clock.advance(10)
    client.user()
    assert server.refreshes == 2


def test_a_401_renews_the_access_token_once(connect, server):
    client = connect()
    client.user()
    server.expire()
    assert client.user() == "me@example.com"
    assert server.refreshes == 2


def test_many_threads_meeting_a_401_exchange_the_token_once(connect, server):
    client = connect()
    header = client.http.authorization()
    server.expire()
    threads = [threading.Thread(target=client.http.authorization, args=(header,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.refreshes == 2


def test_many_threads_share_the_failure_of_one_exchange(connect, server):
    def fail(request):
        time.sleep(0.1)
        return Reply(b"", 503)

    server.refresh = fail
    client = connect()
    with ThreadPoolExecutor(8) as pool:
        failures = [future.exception() for future in [pool.submit(client.http.authorization) for _ in range(8)]]
    assert {failure.reason for failure in failures} == {Reason.LABEL_STUDIO_UNREACHABLE}
    assert len({id(failure) for failure in failures}) == 8
    assert server.refreshes == 3
    server.refresh = None
    assert client.user() == "me@example.com"


def test_a_caller_waits_for_an_exchange_no_longer_than_its_timeout_and_the_exchange_goes_on(connect, server):
    answer = threading.Event()
    server.refresh = lambda request: Reply(access_token if answer.wait(20) else b"")
    access_token = json.dumps({"access": jwt(token_type="access")}).encode()
    client = connect()
    for _ in range(2):
        with pytest.raises(RetryLater, match="takes too long") as caught:
            client.http.authorization(within_s=0.01)
        assert caught.value.reason is Reason.LABEL_STUDIO_UNREACHABLE
    answer.set()
    assert client.http.authorization() == f"Bearer {jwt(token_type='access')}"
    assert server.refreshes == 1


def test_a_defect_in_an_exchange_leaves_no_caller_waiting():
    def fail():
        raise ZeroDivisionError("slip")

    exchange = TokenExchange(fail, FakeClock())
    for _ in range(2):
        with pytest.raises(ZeroDivisionError, match="slip"):
            exchange.authorization(None, 10)


def test_a_revoked_personal_token_is_an_access_error_that_says_what_to_do(connect, server):
    server.revoked = True
    with pytest.raises(AccessError, match="create one under Account & Settings") as caught:
        connect().user()
    assert caught.value.reason is Reason.AUTH_FAILED
    assert server.refreshes == 1


@pytest.mark.parametrize("status", [404, 405, 410, 418])
def test_an_address_that_exchanges_no_tokens_is_reported_as_such(connect, server, status):
    server.refresh = Reply(b"not here", status)
    with pytest.raises(AccessError, match=f"answers {status} to /api/token/refresh.*LABEL_STUDIO_URL") as caught:
        connect().user()
    assert caught.value.reason is Reason.LABEL_STUDIO_NOT_CONFIGURED
    assert server.refreshes == 1


def test_a_personal_token_without_its_end_is_refused_before_any_request(connect, server):
    with pytest.raises(AccessError, match="without its end") as caught:
        connect(PERSONAL_TOKEN.rpartition(".")[0]).user()
    assert caught.value.reason is Reason.AUTH_FAILED
    assert PERSONAL_TOKEN[:20] not in str(caught.value)
    assert server.requests == []


def test_a_refused_legacy_token_is_an_access_error_that_names_the_other_kind(connect, server):
    server.expire()
    with pytest.raises(AccessError, match="use a personal access token"):
        connect(LEGACY_TOKEN).user()


def test_a_missing_key_is_named(connect):
    with pytest.raises(AccessError, match="LABEL_STUDIO_API_KEY is not set") as caught:
        connect(None).user()
    assert caught.value.reason is Reason.LABEL_STUDIO_NOT_CONFIGURED


def test_a_project_is_read_with_its_labeling_config(connect, server):
    server.routes["/api/projects/7/"] = Reply(b'{"id": 7, "title": "Cats", "label_config": "<View/>", "more": [1]}')
    project = connect().project(7)
    assert (project.id, project.title, project.label_config) == (7, "Cats", "<View/>")


def test_the_next_tasks_are_unfinished_ones_in_order_of_id(connect, server):
    tasks = [{"id": 12, "data": {"image": "/data/upload/1/a.png"}, "predictions": []}, {"id": 15, "data": {}}]
    server.routes["/api/tasks"] = Reply(json.dumps({"tasks": tasks, "total": 2}).encode())
    next_tasks = connect().next_tasks(3, after_task_id=11, count=2)
    assert [(task.id, task.data) for task in next_tasks] == [(12, {"image": "/data/upload/1/a.png"}), (15, {})]
    query = parse_qs(server.requests[-1].query)
    assert query["project"] == ["3"]
    assert query["page_size"] == ["2"]
    assert json.loads(query["query"][0])["filters"]["items"][0]["value"] == 11


def test_a_prediction_is_stored_as_given(connect, server):
    server.routes["/api/predictions/"] = Reply(b"{}", 201)
    connect().create_prediction(NewPrediction(12, msgspec.Raw(b'[{"id": "a"}]'), 0.5, "SAM@1"))
    body = json.loads(server.requests[-1].body)
    assert body == {"task": 12, "result": [{"id": "a"}], "score": 0.5, "model_version": "SAM@1"}


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_passing_failure_is_tried_again(connect, server, status):
    replies = [Reply(b"", status), Reply(b"", status), Reply(b'{"release": "1.23.2"}')]
    server.routes["/api/version"] = lambda request: replies.pop(0)
    assert connect().version() == "1.23.2"


def test_a_lasting_failure_is_given_up_after_three_tries(connect, server):
    server.routes["/api/version"] = Reply(b"", 503)
    with pytest.raises(RetryLater) as caught:
        connect().version()
    assert caught.value.reason is Reason.LABEL_STUDIO_UNREACHABLE
    assert len(server.requests) == 3


def test_storing_a_prediction_is_never_repeated(connect, server):
    server.routes["/api/predictions/"] = Reply(b"", 503)
    with pytest.raises(RetryLater):
        connect().create_prediction(NewPrediction(1, msgspec.Raw(b"[]"), 0.0, "v"))
    assert server.paths().count("/api/predictions/") == 1


def test_an_address_without_a_server_is_reported_as_unreachable(connect):
    with pytest.raises(RetryLater, match="cannot be reached") as caught:
        connect(url="http://127.0.0.1:9").version()
    assert caught.value.reason is Reason.LABEL_STUDIO_UNREACHABLE


def test_credentials_in_the_address_of_a_redirect_are_not_shown(connect, server):
    server.routes["/api/version"] = Reply(b"", 301, {"Location": "https://me:secret@ls.example.com/api/version"})
    with pytest.raises(AccessError, match=r"redirects to https://\*\*\*@ls\.example\.com"):
        connect().version()


def test_the_error_of_a_redirect_names_the_address_to_set(connect, server):
    server.routes["/api/version"] = Reply(b"", 301, {"Location": "https://ls.example.com/api/version"})
    with pytest.raises(AccessError, match=r"set LABEL_STUDIO_URL.*really is") as caught:
        connect().version()
    assert caught.value.reason is Reason.LABEL_STUDIO_NOT_CONFIGURED


def test_a_project_that_is_not_there_is_no_reason_to_retry(connect, server):
    with pytest.raises(RequestError, match="404"):
        connect().project(99)
    assert server.paths().count("/api/projects/99/") == 1


def test_an_answer_that_is_not_label_studios_is_an_error(connect, server):
    server.routes["/api/version"] = Reply(b"<html>hello</html>")
    with pytest.raises(RetryLater, match="got something else"):
        connect().version()


def test_tokens_never_show_in_reprs_logs_or_errors(connect, server, caplog):
    caplog.set_level(logging.DEBUG)
    texts = []
    for token in (PERSONAL_TOKEN, LEGACY_TOKEN):
        client = connect(token)
        client.user()
        texts += [repr(client), repr(vars(client)), repr(vars(client.http))]
    server.routes["/api/version"] = Reply(b"", 503)
    with pytest.raises(RetryLater) as caught:
        client.version()
    server.revoked = True
    with pytest.raises(AccessError) as refused:
        connect().user()
    texts += [str(caught.value), str(refused.value), caplog.text]
    access = next(value for value in server.accepted if value.startswith("Bearer ")).removeprefix("Bearer ")
    assert caplog.records
    assert not any(secret in text for secret in (PERSONAL_TOKEN, LEGACY_TOKEN, access) for text in texts)


def test_a_request_that_names_when_to_come_back_is_not_repeated_sooner(connect, server):
    server.routes["/api/version"] = Reply(b"", 429, {"Retry-After": "30"})
    with pytest.raises(RetryLater) as caught:
        connect().version()
    assert caught.value.retry_after_s == 30
    assert len(server.requests) == 1


@pytest.mark.parametrize("header", ["soon", "-3", "9" * 30, "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_retry_after_that_is_no_number_of_seconds_does_not_count(connect, server, header):
    server.routes["/api/version"] = Reply(b"", 503, {"Retry-After": header})
    with pytest.raises(RetryLater) as caught:
        connect().version()
    assert caught.value.retry_after_s is None
    assert len(server.requests) == 3


def test_label_studios_message_about_a_refused_request_is_quoted(connect, server):
    detail = {"detail": "Validation error", "validation_errors": {"task": ["no such task"]}}
    server.routes["/api/predictions/"] = Reply(json.dumps(detail).encode(), 400)
    with pytest.raises(RequestError, match=r"400 to /api/predictions/.*no such task"):
        connect().predictions(99)


def test_tasks_are_listed_with_what_they_lack(connect, server):
    tasks = [{"id": 2, "data": {"image": "a"}, "is_labeled": True, "drafts": []}, {"id": 1, "is_labeled": False}]
    server.routes["/api/tasks"] = Reply(json.dumps({"tasks": tasks, "total": 7}).encode())
    page = connect().task_page(3, '{"ordering": []}', 2)
    assert page.total == 7
    assert [(task.task.id, task.task.data, task.is_labeled) for task in page.tasks] == [
        (2, {"image": "a"}, True), (1, None, False),
    ]  # fmt: skip
    query = parse_qs(server.requests[-1].query)
    assert (query["query"], query["resolve_uri"]) == (['{"ordering": []}'], ["false"])
    assert "review" not in query


def test_listing_a_project_that_predicts_by_itself_sets_nothing_off(connect, server):
    server.routes["/api/tasks"] = Reply(b'{"tasks": [], "total": 0}')
    connect().task_page(3, "{}", 1, asks_for_predictions=True)
    assert parse_qs(server.requests[-1].query)["review"] == ["true"]


def test_a_view_holds_its_filters_or_none(connect, server):
    filters = {"conjunction": "or", "items": []}
    server.routes["/api/dm/views/1/"] = Reply(json.dumps({"project": 3, "data": {"filters": filters}}).encode())
    server.routes["/api/dm/views/2/"] = Reply(b'{"project": 4, "data": {"title": "All"}}')
    first, second = connect().view(1), connect().view(2)
    assert (first.project_id, json.loads(bytes(first.filters))) == (3, filters)
    assert (second.project_id, bytes(second.filters)) == (4, b"null")


def test_predictions_are_read_as_far_as_they_must_be(connect, server):
    body = (
        b'[{"id": 5, "model_version": "v", "result": [ {"id": "a"} ]}, {"id": 6, "model_version": null, "result": []}]'
    )
    server.routes["/api/predictions/"] = Reply(body)
    predictions = connect().predictions(12)
    assert bytes(predictions.raw) == body
    assert [(prediction.id, prediction.model_version, prediction.is_empty) for prediction in predictions.stored] == [
        (5, "v", False),
        (6, None, True),
    ]
    assert parse_qs(server.requests[-1].query) == {"task": ["12"]}


NO_SUCH_TASK = json.dumps(
    {
        "status_code": 400,
        "detail": "Validation error",
        "validation_errors": {"task": ["Select a valid choice. That choice is not one of the available choices."]},
    }
).encode()


def test_predictions_of_a_task_that_is_deleted_are_gone_although_label_studio_answers_400(connect, server):
    server.routes["/api/predictions/"] = Reply(NO_SUCH_TASK, 400)
    with pytest.raises(RefusedError, match=r"400 to /api/predictions/: .*: there is no such task") as caught:
        connect().predictions(12)
    assert caught.value.is_gone
    assert server.paths()[-2:] == ["/api/predictions/", "/api/tasks/12/annotations/"]


def test_predictions_that_label_studio_refuses_to_list_are_not_gone(connect, server):
    server.routes["/api/predictions/"] = Reply(NO_SUCH_TASK, 400)
    server.routes["/api/tasks/12/annotations/"] = Reply(b"[]")
    with pytest.raises(RefusedError, match=r"400 to /api/predictions/: .*valid choice") as caught:
        connect().predictions(12)
    assert not caught.value.is_gone


@pytest.mark.parametrize("status", [405, 409, 410, 413, 422])
def test_only_a_404_means_that_something_is_gone(connect, server, status):
    server.routes["/api/predictions/"] = Reply(b"", status)
    with pytest.raises(RefusedError, match=str(status)) as caught:
        connect().predictions(12)
    assert not caught.value.is_gone


def test_what_the_key_may_not_do_is_reported_in_label_studios_words(connect, server):
    server.routes["/api/predictions/"] = Reply(b'{"detail": "You do not have permission to do that."}', 403)
    with pytest.raises(ForbiddenError, match=r"403 to /api/predictions/: You do not have permission") as caught:
        connect().create_prediction(NewPrediction(1, msgspec.Raw(b"[]"), 0.0, "v"))
    assert caught.value.reason is Reason.AUTH_FAILED


@pytest.mark.parametrize(("result", "is_empty"), [(b"[]", True), (b"[ ]", True), (b"null", True), (b"[{}]", False)])
def test_a_prediction_without_regions_is_empty(result, is_empty):
    assert StoredPrediction(1, "v", msgspec.Raw(result)).is_empty is is_empty


def test_annotations_are_handed_on_unread(connect, server):
    server.routes["/api/tasks/12/annotations/"] = Reply(b'[{"result": [1, 2]}]')
    assert bytes(connect().annotations(12)) == b'[{"result": [1, 2]}]'


def test_predictions_are_imported_in_one_request_that_is_never_repeated(connect, server):
    path = "/api/projects/3/import/predictions"
    server.routes[path] = Reply(b'{"created": 2}', 201)
    new = [NewPrediction(task, msgspec.Raw(b"[]"), 0.5, "v") for task in (1, 2)]
    assert connect().import_predictions(3, new) == 2
    assert [entry["task"] for entry in json.loads(server.requests[-1].body)] == [1, 2]
    server.routes[path] = Reply(b"", 502)
    with pytest.raises(RetryLater):
        connect().import_predictions(3, new)
    assert server.paths().count(path) == 2


def test_deleting_what_is_deleted_already_succeeds(connect, server):
    client = connect()
    server.routes["/api/predictions/5/"] = Reply(b"", 204)
    client.delete_prediction(5)
    client.delete_prediction(6)
    assert [request.method for request in server.requests[-2:]] == ["DELETE", "DELETE"]
    server.routes["/api/predictions/7/"] = Reply(b"", 400)
    with pytest.raises(RequestError):
        client.delete_prediction(7)


def test_predictions_are_counted_by_version(connect, server):
    server.routes["/api/projects/3/model-versions/"] = Reply(b'{"v": 4, "other": 1}')
    assert connect().count_predictions(3) == {"v": 4, "other": 1}
