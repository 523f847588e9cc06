"""Puts the site into a folder that any static host can serve as it is, after checking every link inside it."""

import html
import re
import shlex
import shutil
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from lib import project, records, site

MARKER = ".nojekyll"  # tells GitHub Pages to serve the files as they are, and us which of them we put there
NOT_FOUND = "404.html"


def publish(profile, folder):
    """Render the site of `profile`, with links to the project's repository, into `folder`; return its index.

    Files of an earlier call are replaced, others that lie there are kept. Raises StudyError for a folder that has
    files but was not made here, and for a link that leads nowhere.
    """
    folder = Path(folder)
    earlier = (folder / MARKER).read_text("utf-8", "replace").split("\n") if (folder / MARKER).exists() else []
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and "index.html" not in earlier)):
        raise project.StudyError(f"{folder} is not empty and was not made by `invoke publish`: choose another --folder")
    files = _files(profile, project.repository()) | {NOT_FOUND: site.not_found().encode()}
    if broken := _broken({name: content.decode() for name, content in files.items() if _page(name)}, files):
        raise project.StudyError(f"{len(broken)} broken link(s), first {broken[0]}: mend it in its notebook")
    project.atomic_write(folder / MARKER, "\n".join({*earlier, *files}))  # the folder is ours also if this is cut short
    for name in set(earlier) & {path.name for path in folder.glob("*")} - files.keys():
        (folder / name).unlink()
    for name, content in files.items():
        project.atomic_write(folder / name, content)
    project.atomic_write(folder / MARKER, "\n".join(files))
    return folder / "index.html"


def _page(name):
    return name.endswith(".html")


def _files(profile, repository):
    """The rendered site, {name: content}."""
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary).resolve()  # or links with ../ would start from elsewhere
        for sprite in (project.REPORTS / profile / "site").glob("*.webp"):  # its data may not be here
            shutil.copy(sprite, source)
        site.render(profile, source, repository)
        files = {path.name: path.read_bytes() for path in sorted(source.iterdir())}
        return files | {name: _outward(_discreet(content.decode(), profile), source, repository).encode()
                        for name, content in files.items() if _page(name)}


def _discreet(text, profile):
    """A page that does not tell where on this machine a folder of images lies, only its name."""
    path = Path(records.dataset(profile) or "")
    if not path.is_absolute():
        return text
    for spelt in (shlex.quote, str):  # in a command, and elsewhere
        whole, name = html.escape(spelt(str(path))), html.escape(spelt(path.name))
        jinja = whole.replace("&#x27;", "&#39;").replace("&quot;", "&#34;")  # whose escapes are these
        text = text.replace(whole, name).replace(jinja, name)
    return text


def _outward(text, source, repository):
    """A page whose links to the project's other files lead to its repository, or are plain text without one."""

    def address(match):
        path, words = (source / unquote(match[1])).resolve(), match[2]
        if not repository or not path.is_relative_to(project.ROOT):
            return words
        return f'<a href="https://github.com/{repository}/blob/HEAD/{path.relative_to(project.ROOT).as_posix()}">{words}</a>'

    return re.sub(r'(?s)<a href="(\.\./[^"#]*)(?:#[^"]*)?">(.*?)</a>', address, text)


def _broken(pages, files):
    """Links of the pages {name: text} that lead neither outside nor to a file and section that is there."""
    read = {name: _Links(text) for name, text in pages.items()}
    broken = []
    for name, page in read.items():
        for link in page.links:
            path, _, section = link.partition("#")
            path = path or name
            known = read[path].ids if path in read else ()
            if path not in files or (section and path in pages and not {section, unquote(section)} & set(known)):
                broken.append(f"{name} → {link}")
    return broken


class _Links(HTMLParser):
    """The links and pictures of a page that stay inside the site, and the ids that links can lead to."""

    def __init__(self, text):
        super().__init__()
        self.links, self.ids = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id":
                self.ids.add(value)
            elif name in ("href", "src") and not re.match(r"[a-z]+:", value or ""):
                self.links.append(value)
