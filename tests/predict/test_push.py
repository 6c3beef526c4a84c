"""``push_to_hub``: what reaches a hub over HTTP, and what is left here where the hub does not take it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.predict.conftest import TinyRun
from tests.predict.hub_server import TOKEN, Hub, serving_hub

Command = Callable[..., int]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub of this machine, to which the hub's own library is sent, logged in there and nowhere else."""
    with serving_hub() as served:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", served.address)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield served


def words_of(tiny_run: TinyRun, *, name: str = "ants") -> list[str]:
    return [f"ckpt_path={tiny_run.run_dir}", f"output={name}.safetensors", f"hub_folder={name}", "push_to_hub=me/ants"]


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_hub_has_the_folder_to_the_byte_and_privately(
    hub: Hub, tiny_run: TinyRun, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("export", *words_of(tiny_run)) == 0
    assert hub.commits == [content_of(Path("ants"))]
    assert sorted(hub.commits[0]) == ["README.md", "config.json", "model.safetensors"]
    assert len(hub.objects) == 1  # the weights, as a large file
    assert hub.repos["me/ants"].get("visibility", hub.repos["me/ants"].get("private")) in {"private", True}
    assert f"pushed: {hub.address}/me/ants/commit/" in capsys.readouterr().out.replace("\n", "")

    # The next one is a commit in the same repository.
    assert command("export", *words_of(tiny_run, name="more")) == 0
    assert [*hub.repos] == ["me/ants"]
    assert hub.commits[1] == content_of(Path("more"))


@pytest.mark.parametrize("why", ["not logged in", "no room", "nobody there", "offline"])
def test_a_hub_that_does_not_take_it_is_one_line_and_the_folder_is_whole(
    why: str,
    hub: Hub,
    tiny_run: TinyRun,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if why == "not logged in":
        monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    elif why == "no room":
        hub.refuses_objects = True
    elif why == "offline":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    else:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")
    assert command("export", *words_of(tiny_run)) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: push_to_hub=me/ants: ")
    assert error.endswith("ants is whole, and can be pushed later\n")
    assert error.count("\n") == 1
    assert hub.commits == []
    assert sorted(content_of(Path("ants"))) == ["README.md", "config.json", "model.safetensors"]
    assert Path("ants.safetensors").read_bytes() == Path("ants/model.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["me/ants/x", "a b/c", "me/ants.git", "", "ants--x/y"])
def test_a_name_that_no_hub_knows_is_refused_before_any_work(
    name: str, hub: Hub, tiny_run: TinyRun, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("export", *words_of(tiny_run)[:-1], f"push_to_hub='{name}'") == 2
    assert capsys.readouterr().err == f"error: push_to_hub={name} is not legal: give USER/NAME\n"
    assert list(Path().iterdir()) == []
    assert hub.repos == {}
