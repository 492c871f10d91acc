"""What task data says of an image, read as a place."""

import base64
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import AccessError, BackendError, ImageError, Reason
from backend.images.locations import Inline, LabelStudioOrigin, LocalFile, Remote, resolve, serves_task_files
from backend.types import ImageRef

LS = "http://ls.example.com:8080"


def locate(uri, url=LS, root=None, public=None, **fields):
    return resolve(ImageRef(uri, **fields), LabelStudioOrigin(url, public), root)


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("/data/upload/1/3024c2b9-plain.jpg", "/data/upload/1/3024c2b9-plain.jpg"),
        ("data/upload/1/3024c2b9-plain.jpg", "/data/upload/1/3024c2b9-plain.jpg"),
        ("upload/1/3024c2b9-plain.jpg", "/data/upload/1/3024c2b9-plain.jpg"),
        ("/upload/1/a.jpg", "/data/upload/1/a.jpg"),
        ("/storage-data/uploaded/?filepath=upload/1/a.jpg", "/storage-data/uploaded/?filepath=upload/1/a.jpg"),
        ("/data/local-files/?d=sub/local%20one.jpg", "/data/local-files/?d=sub/local%20one.jpg"),
        ("/tasks/5/resolve/?fileuri=czM6Ly9i", "/tasks/5/resolve/?fileuri=czM6Ly9i"),
        ("  /data/upload/1/a.jpg \n", "/data/upload/1/a.jpg"),
        ("/data/upload/1/два слова.jpg", "/data/upload/1/два слова.jpg"),
        (LS + "/data/upload/1/a.jpg", "/data/upload/1/a.jpg"),
        ("HTTP://LS.example.com:8080/data/upload/1/a.jpg", "/data/upload/1/a.jpg"),
        ("//ls.example.com:8080/data/upload/1/a.jpg", "/data/upload/1/a.jpg"),
    ],
)
def test_paths_of_label_studio_lead_there_in_every_spelling(uri, path):
    assert locate(uri).url == LS + path


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("http://ls", "http://ls:80"),
        ("http://ls:80", "http://LS."),
        ("https://ls", "https://ls:443"),
        ("https://ls:443", "https://someone:secret@ls"),
    ],
)
def test_label_studio_is_known_by_its_origin_however_that_is_spelt(url, same):
    assert locate(same + "/data/upload/1/a.jpg", url) == Remote(url + "/data/upload/1/a.jpg", immutable=True)
    with pytest.raises(AccessError):
        locate(same + "/data/upload/../a.jpg", url)


@pytest.mark.parametrize("other", ["https://ls:80", "http://ls:443", "http://ls.evil.example.com", "http://ls@evil"])
def test_another_scheme_host_or_port_is_not_label_studio(other):
    assert locate(other + "/data/upload/1/a.jpg", "http://ls") == Remote(other + "/data/upload/1/a.jpg")


def test_a_label_studio_below_a_path_keeps_it_once():
    url = "https://example.com/ls"
    assert locate("/data/upload/1/a.jpg", url).url == "https://example.com/ls/data/upload/1/a.jpg"
    assert locate("/ls/data/upload/1/a.jpg", url).url == "https://example.com/ls/data/upload/1/a.jpg"


LOCAL = "/data/local-files/?d=sub/local%20one.jpg"


@pytest.mark.parametrize(
    ("url", "public", "uri", "expected"),
    [
        ("http://ls:8080", "http://localhost:8080", "http://localhost:8080" + LOCAL, "http://ls:8080" + LOCAL),
        ("http://ls:8080", "https://a.example.com", "HTTPS://A.example.com:443" + LOCAL, "http://ls:8080" + LOCAL),
        ("http://ls:8080", "https://a.example.com", "//a.example.com" + LOCAL, "http://ls:8080" + LOCAL),
        ("http://ls:8080", "https://a.example.com/x", "https://a.example.com/x" + LOCAL, "http://ls:8080" + LOCAL),
        ("http://ls:8080", "https://a.example.com/x", "/x" + LOCAL, "http://ls:8080" + LOCAL),
        ("http://ls/in", "https://a.example.com/x", "https://a.example.com/x" + LOCAL, "http://ls/in" + LOCAL),
        ("http://ls/in", "https://a.example.com", "https://a.example.com" + LOCAL, "http://ls/in" + LOCAL),
        ("http://ls/in", "https://a.example.com", "http://ls/in" + LOCAL, "http://ls/in" + LOCAL),
        ("http://ls/in", "https://a.example.com", "http://ls" + LOCAL, "http://ls/in" + LOCAL),
        ("http://ls", "http://ls/x", "http://ls/x" + LOCAL, "http://ls" + LOCAL),
    ],
)
def test_the_address_that_browsers_know_means_the_one_that_is_reached_from_here(url, public, uri, expected):
    assert locate(uri, url, public=public) == Remote(expected)


@pytest.mark.parametrize(
    "uri",
    [
        "https://a.example.com/data/upload/1/a.jpg",
        "https://a.example.com/xx/data/upload/1/a.jpg",
        "https://a.example.com:8443/x/data/upload/1/a.jpg",
        "http://a.example.com/x/data/upload/1/a.jpg",
    ],
)
def test_what_lies_beside_the_address_that_browsers_know_is_not_label_studios(uri):
    assert locate(uri, public="https://a.example.com/x") == Remote(uri)


def test_below_the_address_that_browsers_know_uploads_never_change_and_paths_may_not_climb():
    public = "https://a.example.com/x"
    assert locate(public + "/data/upload/1/a.jpg", public=public).immutable
    for path in ("/data/../../etc/passwd", "/data/local-files/?d=../a.jpg", "/%2e%2e/a.jpg"):
        with pytest.raises(AccessError):
            locate(public + path, public=public)


@pytest.mark.parametrize(
    ("uri", "immutable"),
    [
        ("/data/upload/1/a.jpg", True),
        ("/data/local-files/?d=a.jpg", False),
        ("http://other/data/upload/1/a.jpg", False),
    ],
)
def test_only_uploads_never_change(uri, immutable):
    assert locate(uri).immutable is immutable


def test_an_address_elsewhere_stays_as_it_is():
    assert locate("https://cdn.example.com/a%20b.jpg?v=2&w=1#top") == Remote(
        "https://cdn.example.com/a%20b.jpg?v=2&w=1"
    )


@pytest.mark.parametrize("uri", ["s3://bucket/a b/ü.jpg", "gs://bucket/x.png", "azure-blob://container/y.png"])
def test_cloud_addresses_are_signed_by_label_studio_through_their_task(uri):
    url = locate(uri, task_id=12, project_id=3).url
    assert url.startswith(f"{LS}/tasks/12/presign/?fileuri=")
    (name,) = parse_qs(urlsplit(url).query)["fileuri"]
    assert base64.urlsafe_b64decode(name).decode() == uri


def test_without_a_task_the_project_signs():
    assert "/projects/3/presign/" in locate("s3://bucket/a.jpg", project_id=3).url


def test_a_cloud_address_without_task_and_project_is_not_supported():
    with pytest.raises(ImageError) as caught:
        locate("s3://bucket/a.jpg")
    assert caught.value.reason is Reason.UNSUPPORTED_IMAGE_SOURCE


@pytest.mark.parametrize(
    "uri",
    [
        "data:image/png;base64,aGVsbG8gd29ybGQ/Pz8+",
        "data:image/png;base64,aGVsbG8gd29ybGQ_Pz8-",
        "data:image/png;base64,aGVsbG8g\n d29ybGQ/Pz8+",
        "DATA:;BASE64,aGVsbG8gd29ybGQ%2FPz8%2B",
        "data:,hello%20world???>",
    ],
)
def test_data_addresses_hold_the_image_itself(uri):
    assert locate(uri) == Inline(b"hello world???>")


@pytest.mark.parametrize("uri", ["data:image/png;base64,%%%%", "data:image/png", "data:image/png;base64,abcde!"])
def test_a_broken_data_address_is_an_image_error(uri):
    with pytest.raises(ImageError):
        locate(uri)


@pytest.mark.parametrize(
    "uri",
    ["ftp://host/a.jpg", "file:///etc/passwd", r"C:\images\a.jpg", "a.jpg", "hello world", "javascript:1", "http:///a"],
)
def test_other_spellings_are_named_as_not_supported(uri):
    with pytest.raises(ImageError) as caught:
        locate(uri)
    assert caught.value.reason is Reason.UNSUPPORTED_IMAGE_SOURCE


@pytest.mark.parametrize(
    "uri",
    [
        "ftp://user:secret@h/x.jpg",
        "FTP:user:secret@h/x.jpg",
        "http://user:sec/secret@h/x.jpg",
        "//user:x:secret@h:port/x.jpg",
        "http://user:secret@ls.example.com:8080/../x.jpg#http://a:secret@b",
        "s3://user:secret@bucket/x.jpg",
        "user:secret@h/x.jpg",
        "ftp://" + "u" * 60 + ":secret-that-is-cut-before-its-end@h/x.jpg",
    ],
)
def test_credentials_in_an_address_are_not_shown(uri):
    with pytest.raises(BackendError) as caught:
        locate(uri)
    assert "sec" not in str(caught.value)


def test_of_a_refused_address_without_credentials_the_error_is_shown_whole():
    with pytest.raises(AccessError, match=r"/data/upload/\.\./img@2x\.jpg"):
        locate("/data/upload/../img@2x.jpg")


@pytest.mark.parametrize(
    "uri",
    [
        "/data/upload/../../api/users",
        "upload/../../etc/passwd",
        "/data/%2e%2e/secret",
        "/data/local-files/?d=../../etc/passwd",
        "/data/local-files/?d=a%2F..%2F..%2Fetc%2Fpasswd",
        r"/data/local-files/?d=..\..\windows",
        LS + "/data/upload/../x",
    ],
)
def test_a_path_that_climbs_is_forbidden(uri):
    with pytest.raises(AccessError) as caught:
        locate(uri)
    assert caught.value.reason is Reason.FORBIDDEN_PATH


@pytest.mark.parametrize(
    "uri",
    [
        "/data/upload/%252e%252e/%252e%252e/api/users",
        "/data/upload/..%2f..%2fapi/users",
        "/data/upload/%2E%2E%5capi/users",
        "/data/upload/.%2e/../api/users",
        "/data/upload/%25252525252e%25252525252e/api",
        LS + "/data/%2e%2e/api/users",
    ],
)
def test_a_path_that_climbs_under_any_encoding_is_forbidden(uri):
    with pytest.raises(AccessError) as caught:
        locate(uri)
    assert caught.value.reason is Reason.FORBIDDEN_PATH


@pytest.mark.parametrize(
    "path",
    [
        "/data/upload/1/a.jpg",
        "/data/upload/1/a%20b%25.jpg",
        "/data/local-files/",
        "/data/local-files",
        "/data/media/a.jpg",
        "/data//upload/./1/a.jpg",
        "/storage-data/uploaded/",
        "/tasks/12/presign/",
        "/tasks/12/resolve",
        "/projects/3/presign/",
        "/projects/3/resolve/",
    ],
)
def test_label_studio_serves_task_files_there(path):
    assert serves_task_files(path)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/data",
        "/data/",
        "/api/users",
        "/admin",
        "/export",
        "/user/account",
        "/datax/upload/1/a.jpg",
        "/x/data/upload/1/a.jpg",
        "/api/data/upload/1/a.jpg",
        "/data/avatars/1.png",
        "/data/%61vatars/1.png",
        "/data//avatars/1.png",
        "/data/./avatars/1.png",
        "/storage-data/",
        "/storage-data/other/",
        "/tasks/12",
        "/tasks/12/presign/../../../api/users",
        "/tasks/x/presign/",
        "/tasks/12/presign/more",
        "/tasks/12/annotations/",
        "/projects/3/data",
        "/api/tasks/12/presign/",
        "/data/upload/../../api/users",
        "/data/upload/%2e%2e/%2e%2e/api/users",
        "/data/upload/%252e%252e/%252e%252e/api/users",
        r"/data/upload\..\..\api\users",
    ],
)
def test_label_studio_serves_no_task_files_there(path):
    assert not serves_task_files(path)


@pytest.mark.parametrize(
    ("url", "public", "uri"),
    [
        (LS, None, LS + "/pictures/a.png?v=1"),
        (LS + "/ls", None, LS + "/pictures/a.png"),
        (LS + "/ls", None, LS + "/ls/pictures/a.png"),
        (LS, "https://a.example.com", "https://a.example.com/pictures/a.png"),
    ],
)
def test_an_address_beside_label_studios_task_files_stays_as_it_is(url, public, uri):
    assert locate(uri, url, public=public) == Remote(uri)


def test_a_relative_path_beside_the_task_files_is_taken_below_label_studio():
    assert locate("/static/samples/a.png").url == LS + "/static/samples/a.png"


@pytest.fixture
def shared(tmp_path):
    root = tmp_path / "files"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "local one.jpg").write_bytes(b"jpeg")
    (root / "sub" / "ü+1.jpg").write_bytes(b"jpeg")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (root / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    return root


@pytest.mark.parametrize("name", ["sub/local one.jpg", "/sub/local one.jpg", "sub//local one.jpg", "sub/ü+1.jpg"])
def test_a_shared_directory_serves_local_files_from_disk(shared, name):
    location = locate("/data/local-files/?d=" + quote(name), root=shared)
    assert isinstance(location, LocalFile)
    assert location.path.name == name.split("/")[-1]


def test_a_shared_directory_serves_local_files_named_by_the_address_that_browsers_know(shared):
    location = locate("http://localhost:8080" + LOCAL, root=shared, public="http://localhost:8080")
    assert location == LocalFile((shared / "sub" / "local one.jpg").resolve())


def test_a_local_file_that_the_directory_lacks_is_asked_of_label_studio(shared):
    assert isinstance(locate("/data/local-files/?d=sub/none.jpg", root=shared), Remote)
    assert isinstance(locate("/data/local-files/?d=sub", root=shared), Remote)
    assert isinstance(locate("/data/local-files/?d=%00", root=shared), Remote)


def test_a_symbolic_link_out_of_the_shared_directory_is_forbidden(shared):
    with pytest.raises(AccessError) as caught:
        locate("/data/local-files/?d=out.jpg", root=shared)
    assert caught.value.reason is Reason.FORBIDDEN_PATH


def test_without_a_shared_directory_nothing_is_read_from_disk(shared):
    assert isinstance(locate("/data/local-files/?d=sub/local%20one.jpg"), Remote)


@given(uri=st.text(min_size=1) | st.text("/.:@?#%\\[]adhtps0=-", min_size=1, max_size=30))
@settings(deadline=None)
def test_any_text_gives_a_place_or_a_reason(uri):
    try:
        location = locate(uri, root=Path(__file__).parent, public="https://a.example.com/x")
    except BackendError:
        return
    assert isinstance(location, Inline | LocalFile | Remote)
    if isinstance(location, Remote):
        assert location.url.lower().startswith(("http://", "https://"))
