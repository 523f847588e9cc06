"""The published site: complete, with links that lead somewhere, in a folder that nobody else uses."""

import html
import json
import os
import shlex
import subprocess

from lib import project, publish, site

import markupsafe
import pytest

PAGE = '<h2 id="a b">x</h2><a href="{}">words</a><img src="data:image/webp;base64,x" alt="x">'


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A site of two pages, of which tests change one, and pictures that nobody can draw anew."""
    folder = tmp_path / "reports" / "reference" / "site"
    folder.mkdir(parents=True)
    (folder / "contested-0.webp").write_bytes(b"pictures")
    (folder / "index.html").write_text(PAGE.format("01.html#a%20b"))
    (folder / "01.html").write_text(PAGE.format("index.html"))

    def render(profile, target, repository):
        for page in folder.glob("*.html"):
            (target / page.name).write_text(page.read_text().replace("ROOT", os.path.relpath(tmp_path, target)))

    monkeypatch.setattr(site, "render", render)
    monkeypatch.setattr(project, "ROOT", tmp_path)
    monkeypatch.setattr(project, "REPORTS", tmp_path / "reports")
    monkeypatch.setattr(project, "repository", lambda: None)
    return folder


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_everything_is_there_and_what_is_gone_goes(source, tmp_path):
    folder = tmp_path / "a" / "public"
    assert publish.publish("reference", folder) == folder / "index.html"
    assert names(folder) == {"index.html", "01.html", "404.html", "contested-0.webp", ".nojekyll"}
    (folder / "CNAME").write_text("not ours")
    (source / "contested-0.webp").rename(source / "contested-1.webp")
    publish.publish("reference", folder)
    assert names(folder) == {"index.html", "01.html", "404.html", "contested-1.webp", ".nojekyll", "CNAME"}


def test_what_was_cut_short_can_be_published_again(source, tmp_path, monkeypatch):
    """By a full disk, say."""
    def full(path, content, write=project.atomic_write):
        if path.name == "404.html":
            raise OSError(28, "No space left on device")
        write(path, content)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(project, "atomic_write", full)
        publish.publish("reference", tmp_path / "public")
    publish.publish("reference", tmp_path / "public")
    assert names(tmp_path / "public") == {"index.html", "01.html", "404.html", "contested-0.webp", ".nojekyll"}


@pytest.mark.parametrize("link", ["02.html", "index.html#none", "#none", "pictures/x.png"])
def test_a_link_that_leads_nowhere_is_an_error_before_anything_is_written(source, tmp_path, link):
    (source / "01.html").write_text(PAGE.format(link))
    with pytest.raises(project.StudyError, match=rf"1 broken link\(s\), first 01.html → {link}"):
        publish.publish("reference", tmp_path / "public")
    assert not (tmp_path / "public").exists()


def test_links_to_the_project_lead_to_its_repository_or_are_text(source, tmp_path, monkeypatch):
    (source / "01.html").write_text(PAGE.format("ROOT/lib/show.py#L3").replace("words", "two\nwords"))
    publish.publish("reference", tmp_path / "public")
    assert "</h2>two\nwords<img" in (tmp_path / "public" / "01.html").read_text()
    monkeypatch.setattr(project, "repository", lambda: "o/n")
    publish.publish("reference", tmp_path / "public")
    assert 'href="https://github.com/o/n/blob/HEAD/lib/show.py"' in (tmp_path / "public" / "01.html").read_text()


@pytest.mark.parametrize("marker", [None, b"", b"other.html", b"\xff\xfe"])
def test_a_folder_of_someone_else_is_left_alone(source, tmp_path, marker):
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "index.html").write_text("theirs")
    if marker is not None:
        (folder / ".nojekyll").write_bytes(marker)
    with pytest.raises(project.StudyError, match="not empty and was not made by `invoke publish`"):
        publish.publish("reference", folder)
    assert (folder / "index.html").read_text() == "theirs"


@pytest.mark.parametrize("escape", [html.escape, markupsafe.escape])
@pytest.mark.parametrize("photos", ["/home/me & you/photos", "/home/Ann's \"pics\"/photos"])
def test_pages_do_not_tell_where_images_lie(source, tmp_path, photos, escape):
    """Only what their folder is called, in a command, too: the path is one of this machine."""
    project.atomic_write(source.parent / "run.json", json.dumps({"dataset": photos}))
    text = str(escape(f"from {photos}, --dataset {shlex.quote(photos)}"))
    (source / "01.html").write_text(PAGE.format("index.html").replace("words", text))
    publish.publish("reference", tmp_path / "public")
    assert ">from photos, --dataset photos<" in (tmp_path / "public" / "01.html").read_text()


@pytest.mark.parametrize(("remote", "name"), [
    ("git@github.com:o/n.git", "o/n"), ("https://github.com/o/n", "o/n"), ("ssh://git@github.com/o/n.js.git", "o/n.js"),
    ("https://github.example/o/n.git", None), ("../github.com/o/n", None), (None, None)])  # fmt: skip
def test_repository_is_that_of_the_remote(remote, name, tmp_path, monkeypatch):
    monkeypatch.setattr(project, "ROOT", tmp_path)
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    if remote:
        for command in (["init", "-q"], ["remote", "add", "origin", remote]):
            subprocess.run(["git", *command], cwd=tmp_path, check=True)
    assert project.repository() == name
    monkeypatch.setenv("GITHUB_REPOSITORY", "a/b")
    assert project.repository() == "a/b"
