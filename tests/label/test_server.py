"""The server, asked as a page would ask it, and as nobody may."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image
from tests.label.given import TOKEN, Client, serving, write_pictures

from layermatch.data.manifest import Row, read_manifest, write_manifest

NO_LABEL = ["", "train"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, Path]]:
    """A server that no test leaves with a label."""
    folder = tmp_path_factory.mktemp("served")
    write_pictures(folder / "pictures")
    (folder / "pictures" / "IMG_011.png").write_bytes(b"broken")
    with serving(folder / "pictures", folder / "cache") as client:
        for name in ("red", "green"):
            assert client.post("class", name=name)[0] == 200
        yield client, folder / "pictures"


@pytest.fixture
def client(served: tuple[Client, Path]) -> Iterator[Client]:
    yield served[0]
    while served[0].post("undo")[1]["said"]:
        pass


# ------------------------------------------------------------------------------------------------------------ the guard


def test_the_page_needs_the_token_and_leaves_a_cookie(client: Client) -> None:
    status, headers, body = client.raw(f"/?token={TOKEN}")
    assert status == 200
    assert headers["set-cookie"] == f"{client.cookie()['cookie']}; HttpOnly; SameSite=Strict; Path=/"
    assert headers["cache-control"] == "no-store"
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["img-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert b"<script>" not in body
    assert b"style=" not in body
    assert client.raw("/", headers=client.cookie())[0] == 200


def test_the_cookie_lets_read_and_does_not_tell_the_token(client: Client) -> None:
    """Browsers send it to every server on 127.0.0.1, whatever its port."""
    secret = client.cookie()["cookie"].partition("=")[2]
    body = json.dumps({"session": client.state()["session"], "window": "w", "name": "blue"}).encode()
    assert client.raw("/api/class", body=body, headers=client.cookie() | {"x-layermatch-token": secret})[0] == 403
    assert client.raw(f"/api/state?token={secret}")[0] == 403
    for path in ("/", "/static/page.js", "/api/state"):
        _, headers, content = client.raw(path, headers=client.cookie())
        assert TOKEN not in f"{headers}{content.decode()}"


@pytest.mark.parametrize("other", ['prefs={"a":1}', "x[y]=1", "a=b c", 'q="', "=", "", "\u00e4=1", 'a="b; c"'])
def test_a_cookie_of_another_server_locks_nobody_out(other: str, client: Client) -> None:
    own = client.cookie()["cookie"]
    for cookies in (f"{other}; {own}", f"{own}; {other}"):
        assert client.raw("/api/state", headers={"cookie": cookies})[0] == 200


@pytest.mark.parametrize(
    "path", ["/", "/api/state", "/api/view?kind=all", "/api/items?ids=0", "/picture/0", "/static/page.js"]
)
@pytest.mark.parametrize("given", ["", "wrong", TOKEN[:-1], TOKEN + "x", "\u00e4"])
def test_nothing_is_read_without_the_token(path: str, given: str, client: Client) -> None:

    sign = "&" if "?" in path else "?"
    right = client.cookie()["cookie"].partition("=")[2]
    headers = {"cookie": f"layermatch-label-{client.port}={quote(given)}; layermatch-label-1={right}"}
    status, _, body = client.raw(f"{path}{sign}token={quote(given)}", headers=headers)
    assert status == 403
    assert body == b"open the address that the server printed: it has the token\n"


def test_nothing_is_changed_without_the_token_in_the_header(client: Client) -> None:
    client.state()
    body = json.dumps({"session": client.session, "window": "w", "name": "blue"}).encode()
    for name in ("label", "undo", "class", "train", "stop"):
        for headers in ({}, {"x-layermatch-token": "wrong"}):
            status, _, _ = client.raw(f"/api/{name}?token={TOKEN}", body=body, headers=client.cookie() | headers)
            assert status == 403
    assert [each["name"] for each in client.state()["classes"]] == ["red", "green"]
    assert client.get("/api/class")[0] == 405
    assert client.raw("/api/state", headers=client.cookie(), method="DELETE")[0] == 405


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil.example:{port}", ""]
)
def test_a_name_that_leads_here_is_refused(host: str, client: Client) -> None:
    headers = client.cookie() | {"host": host.format(port=client.port)}
    assert client.raw(f"/?token={TOKEN}", headers=headers)[0] in {400, 421}
    assert client.raw("/", headers=client.cookie() | {"host": f"localhost:{client.port}"})[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1:{port}"])
def test_another_site_is_refused(origin: str, client: Client) -> None:
    headers = client.cookie() | {"x-layermatch-token": TOKEN, "origin": origin.format(port=client.port)}
    assert client.raw("/api/state", headers=headers)[0] == 403
    assert client.raw("/api/class", body=b"{}", headers=headers)[0] == 403
    own = headers | {"origin": f"http://127.0.0.1:{client.port}"}
    assert client.raw("/api/state", headers=own)[0] == 200


def test_a_body_without_end_is_refused(client: Client) -> None:
    headers = client.cookie() | {"x-layermatch-token": TOKEN, "content-length": "99999999999999999999999"}
    assert client.raw("/api/class", body=b"{}", headers=headers)[0] in {400, 413}
    assert client.raw("/api/class", body=b"", headers=headers | {"content-length": "17000000"})[0] == 413


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/picture/0?session={session}", 200), ("/picture/0?size=large&session={session}", 200),
        ("/picture/0", 410), ("/picture/0?session=another", 410), ("/picture/12?session={session}", 404),
        ("/picture/-1?session={session}", 404), ("/picture/1e0", 404), ("/picture/..%2f..%2fetc%2fpasswd", 404),
        ("/picture/../labels.csv", 404), ("/picture/99999999999999999999?session={session}", 404),
        ("/static/page.js", 200), ("/static/page.css", 200), ("/static/page.html", 404), ("/static/..%2fapp.py", 404),
        ("/static/../../app.py", 404), ("/IMG_000.png", 404), ("/labels.csv", 404), ("/api/items?ids=12", 404),
        ("/api/items?ids=", 404), ("/api/items?ids=-1", 404), ("/api/items?ids=%C2%B2", 404),
        ("/api/view?kind=none", 409),
        ("/api/view?kind=next&order=best", 409), ("/api/view?kind=next&order=random&count=nan", 409),
        ("/api/view?kind=all&show=others", 409), ("/api/view?kind=guesses&least=2", 409),
        ("/picture/11?session={session}", 404), ("/favicon.ico", 204),
    ],
)  # fmt: skip
def test_only_the_pictures_are_served(path: str, status: int, client: Client) -> None:
    got, headers, body = client.raw(path.format(session=client.state()["session"]), headers=client.cookie())
    assert got == status
    assert headers["x-content-type-options"] == "nosniff"
    if "picture" in path and status == 200:
        assert headers["content-type"] == "image/jpeg"
        assert Image.open(BytesIO(body)).size == (12, 12)


@pytest.mark.parametrize(
    ("name", "asked", "status"),
    [
        ("label", {"ids": [0], "label": "unknown"}, 409), ("label", {"ids": [99], "label": "red"}, 404),
        ("label", {"ids": "0", "label": "red"}, 404), ("label", {"ids": [True], "label": "red"}, 404),
        ("label", {"ids": [0], "label": "red", "seen": [1]}, 400),
        ("label", {"ids": [0], "label": "red", "seen": []}, 400),
        ("label", {"ids": [0], "label": "red", "window": 1}, 400), ("label", {"label": "red"}, 404),
        ("label", {"ids": [0], "label": "red", "ignored": True}, 409), ("class", {"name": ""}, 409),
        ("class", {"name": "red"}, 409), ("class", {}, 400), ("class", {"session": "another", "name": "x"}, 410),
        ("train", {}, 409), ("stop", {}, 200), ("undo", {}, 200),
    ],
)  # fmt: skip
def test_what_is_asked_wrongly_changes_nothing(
    name: str, asked: dict[str, object], status: int, client: Client
) -> None:
    before = client.state()
    got, answer = client.post(name, **asked)
    assert got == status
    assert status == 200 or answer["error"]
    after = client.state()
    assert (after["revision"], after["classes"]) == (before["revision"], before["classes"])


def test_what_is_no_json_is_refused(client: Client) -> None:
    headers = {"x-layermatch-token": TOKEN}
    for body in (b"{", b"[]", b"1", b"\xff", b"[" * 100_000):
        assert client.raw("/api/class", body=body, headers=headers)[0] == 400


# ------------------------------------------------------------------------------------------------------------ labelling


def test_an_answer_is_in_the_file_when_it_is_answered(client: Client, served: tuple[Client, Path]) -> None:
    status, answer = client.label([0, 3], "red", [NO_LABEL, NO_LABEL])
    assert status == 200
    assert answer["left"] == []
    assert [(item["path"], item["label"]) for item in answer["items"]] == [
        ("IMG_000.png", "red"),
        ("IMG_003.png", "red"),
    ]
    assert answer["state"]["labelled"] == 2
    rows = {row.path: (row.label, row.split) for row in read_manifest(served[1] / "labels.csv")}
    assert len(rows) == 12
    assert rows["IMG_003.png"] == ("red", "train")
    assert client.post("label", ids=[1], label="", ignored=True, seen=[NO_LABEL])[1]["state"]["ignored"] == 1
    assert client.label([1], "green", [["", "ignored"]])[1]["items"][0]["split"] == "train"
    for show, ids in (("labelled", [0, 1, 3]), ("ignored", []), ("class&class=red", [0, 3])):
        assert client.get(f"/api/view?kind=all&show={show}")[1]["ids"] == ids
    said = [client.post("undo")[1]["said"] for _ in range(4)]
    assert said == ["IMG_001.png: green", "IMG_001.png: no class", "2 pictures: red", ""]
    assert {row.label for row in read_manifest(served[1] / "labels.csv")} == {""}


def test_two_windows_do_not_lose_each_others_labels(client: Client) -> None:
    other = Client(client.port, window="another")
    client.label([0], "red", [NO_LABEL])
    _, answer = other.label([0, 1], "green", [NO_LABEL, NO_LABEL])
    assert answer["left"] == [0]
    assert [item["label"] for item in answer["items"]] == ["red", "green"]
    _, answer = other.label([0], "green", [["red", "train"]])  # it has seen it now
    assert answer["left"] == []
    assert client.post("undo")[1]["items"][0]["label"] == "green"  # and that is not this window's to take back
    assert [other.post("undo")[1]["said"] for _ in range(3)] == ["IMG_000.png: green", "IMG_001.png: green", ""]
    assert client.get("/api/items?ids=0,1")[1]["items"][0]["label"] == "red"  # as before that window's answer
    assert other.label([0], "", [["red", "train"]])[0] == 200


def test_many_are_confirmed_at_once_and_those_with_an_answer_stay(client: Client) -> None:
    client.label([0], "red", [NO_LABEL])
    client.post("label", ids=[1], label="", ignored=True, seen=[NO_LABEL])
    assert client.label(range(12), "green")[0] == 409  # the last one cannot be read
    _, answer = client.label(range(11), "green")
    labels = [item["label"] for item in client.get("/api/items?ids=" + ",".join(map(str, range(12))))[1]["items"]]
    assert labels == ["red", "", *["green"] * 9, ""]
    assert len(client.post("undo")[1]["ids"]) == 9
    assert answer["state"]["labelled"] == 10


@pytest.mark.parametrize("split", ["train", "test", "val"])
def test_a_picture_that_was_put_aside_is_for_what_it_was_for(split: str, tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    write_pictures(root)
    write_manifest(root / "labels.csv", [Row("IMG_000.png", "red", split), Row("IMG_001.png", "", "ignored")])
    with serving(root, tmp_path / "cache") as client:
        client.post("label", ids=[0], label="", ignored=True, seen=[["red", split]])
        items = client.label([0, 1], "red", [["", "ignored"]] * 2)[1]["items"]
        assert [(item["label"], item["split"]) for item in items] == [("red", split), ("red", "train")]
        assert client.post("undo")[1]["items"][0]["split"] == "ignored"
        assert client.label([0], "", [["", "ignored"]])[1]["items"][0]["split"] == split


def test_proposals_are_of_the_pixels_and_change_with_the_labels(client: Client) -> None:
    state = client.when_ready()
    assert state["proposals"]["known"] == 11  # one is broken
    assert state["proposals"]["model"] == ""
    _, first = client.get("/api/view?kind=next&order=typical")
    assert "by simple features (small pixels), as there is no model yet" in first["said"]
    assert sorted(first["ids"]) == list(range(11))
    assert sorted(number % 3 for number in first["ids"][:3]) == [0, 1, 2]  # one of each colour
    client.label(first["ids"][:1], "red", [NO_LABEL])
    _, second = client.get("/api/view?kind=next&order=typical")
    assert second["ids"][:2] == first["ids"][1:3]
    assert first["ids"][0] not in second["ids"]
    _, uncertain = client.get("/api/view?kind=next&order=uncertain")
    assert (uncertain["ids"], uncertain["said"]) == ([], "only a model can be uncertain: train one first")
    _, drawn = client.get("/api/view?kind=next&order=random")
    assert sorted([*drawn["ids"], first["ids"][0]]) == list(range(12))
    assert client.get("/api/view?kind=guesses&class=red")[1]["ids"] == []
    assert client.get("/api/view?kind=doubts")[1]["ids"] == []


def test_an_edit_by_hand_is_seen_on_the_page(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    write_pictures(root)
    with serving(root, tmp_path / "cache") as client:
        client.post("class", name="<b>&amp;")
        client.label([0], "<b>&amp;", [NO_LABEL])
        before = client.state()
        manifest = root / "labels.csv"
        manifest.write_text(manifest.read_text().replace("IMG_001.png,,train", "IMG_001.png,by hand,val"))
        after = client.state()
        assert after["notice"] == "labels.csv was changed outside: 1 rows are others, as it says"
        assert after["revision"] > before["revision"]
        assert [each["name"] for each in after["classes"]] == ["<b>&amp;", "by hand"]
        manifest.write_text("path,label\n")
        assert "it has no column split" in client.state()["notice"]
        status, answer = client.label([2], "by hand", [NO_LABEL])
        assert status == 409
        assert "repair it; nothing is written until then" in answer["error"]
        assert manifest.read_text() == "path,label\n"


def test_a_file_that_changes_place_is_not_served(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    write_pictures(root)
    (tmp_path / "secret.png").write_bytes((root / "IMG_000.png").read_bytes())
    with serving(root, tmp_path / "cache") as client:
        session = f"session={client.state()['session']}"
        assert client.raw(f"/picture/1?{session}", headers=client.cookie())[0] == 200
        (root / "IMG_000.png").unlink()
        (root / "IMG_000.png").symlink_to(tmp_path / "secret.png")
        (root / "IMG_001.png").unlink()
        os.mkfifo(root / "IMG_001.png")
        assert client.raw(f"/picture/0?{session}", headers=client.cookie())[0] == 404
        assert client.raw(f"/picture/1?{session}", headers=client.cookie())[0] == 404


def test_what_cannot_be_read_gets_no_label_and_is_left_out_of_training(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    truth = write_pictures(root, per_class=3)
    whole = (root / "IMG_000.png").read_bytes()
    (root / "link.png").symlink_to(root / "gone.png")
    os.mkfifo(root / "pipe.png")
    (root / "text.png").write_text("a text")
    (root / "truncated.png").write_bytes(whole[: len(whole) // 2])
    broken = ["link.png", "pipe.png", "text.png", "truncated.png"]
    rows = [*(Row(path, label) for path, label in truth.items()), Row("text.png", "red")]
    write_manifest(root / "labels.csv", rows)
    with serving(root, tmp_path / "cache") as client:
        client.when_ready()
        items = client.get(f"/api/items?ids={','.join(map(str, range(13)))}")[1]["items"]
        numbers = {item["path"]: item["id"] for item in items}
        for path in broken:
            before = (root / "labels.csv").read_text()
            status, answer = client.label([numbers["IMG_001.png"], numbers[path]], "red")
            assert status == (200 if path == "text.png" else 409)  # which has one, and is not meant
            if path != "text.png":
                assert re.fullmatch(rf"{path} cannot be read: .+: no label is taken", answer["error"])
            assert (root / "labels.csv").read_text() == before
        status, answer = client.label([numbers["text.png"]], "green", [["red", "train"]])
        assert (status, answer["error"].partition(":")[0]) == (409, "text.png cannot be read")
        # It can be said that they are of no class, and a label can be taken away.
        assert client.post("label", ids=[numbers["pipe.png"]], label="", ignored=True, seen=[NO_LABEL])[0] == 200
        status, answer = client.post("train", steps=1)
        assert status == 200
        said = answer["state"]["training"]["left_out"]
        assert re.fullmatch(
            r"left out, as they cannot be read: text\.png \(.+\), link\.png \(.+\), truncated\.png \(.+\)", said
        )
        (labels,) = (root / "labels.runs").glob("*.csv")
        assert {row.path for row in read_manifest(labels) if row.split == "train"} == set(truth)
        client.post("stop")
