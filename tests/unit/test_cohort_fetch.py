"""Sources of X-rays by name: what is known of them, what may be read from, and what is said before a fetch."""

import hashlib
import json
import os
import re
import stat
import sys
import zipfile
from dataclasses import asdict, replace
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from cxrdist.cli.cohort_fetch import fetch as fetch_click
from cxrdist.cli.cohort_fetch import fetch_command, fetch_display, size_text
from cxrdist.cohort import catalogue
from cxrdist.cohort.catalogue import SOURCES, ByHand, Download, KaggleDataset, Source, find_source
from cxrdist.cohort.fetch import LOCK, Fetched, fetch, find_fetched, read_lock
from cxrdist.cohort.transfer import Part
from cxrdist.errors import CxrdistError, UserError

HOME = Download(
    homepage="https://example.org",
    address="https://example.org/set.zip",
    hosts=frozenset({"example.org", "files.example.org"}),
    most_bytes=1000,
)
ANYONE = Source("anyone", "A set", "CC0", "Cite it.", "Nobody 2020.", HOME)
RECORD = Fetched(
    name="anyone",
    address=HOME.address,
    sha256="a" * 64,
    archive_bytes=10,
    contents_sha256="b" * 64,
    contents_bytes=20,
    files=1,
    fetched="2020-05-27T00:00:00+00:00",
    licence="CC0",
    citation="Nobody 2020.",
)


class Nobody:
    """Watches without a word."""

    def say(self, text):
        pass

    def show(self, done, total):
        pass


# The catalogue


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_every_source_has_terms_and_a_home(source):
    assert find_source(source.name) is source
    assert re.fullmatch(r"[a-z0-9-]+", source.name)
    assert source.home.homepage.startswith("https://")
    for text in (source.title, source.licence, source.terms, source.citation):
        assert len(text) > 5
        assert text.isprintable()


@pytest.mark.parametrize(
    "source", [s for s in SOURCES.values() if not isinstance(s.home, ByHand)], ids=lambda s: s.name
)
def test_what_is_not_known_of_an_archive_is_null_and_what_is_known_is_possible(source):
    assert source.home.size is None or 0 < source.home.size <= source.home.most_bytes
    assert source.home.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", source.home.sha256)
    if isinstance(source.home, Download):
        assert source.home.refusal(source.home.address) is None
        assert source.home.address.startswith("https://")


def test_the_help_names_every_source():
    result = CliRunner().invoke(fetch_click, ["--help"])
    words = set(re.findall(r"[\w-]+", result.output))
    assert set(SOURCES) <= words


def test_a_name_that_is_unknown_gets_the_nearest():
    with pytest.raises(UserError, match=r"'montgomry'.*did you mean 'montgomery'"):
        find_source("montgomry")


@pytest.mark.parametrize("name", ["nih", "rsna"])
def test_a_source_to_ask_for_says_where_and_what_to_accept(name, tmp_path):
    for ask in (
        lambda: fetch(SOURCES[name], tmp_path, Nobody()),
        lambda: fetch_command(name, tmp_path, None, yes=True),
    ):
        with pytest.raises(UserError, match="cannot be fetched by a command") as refused:
            ask()
        assert SOURCES[name].home.homepage in str(refused.value)
    assert not list(tmp_path.iterdir())


# Addresses


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://example.org/x", None),
        ("https://FILES.example.org:443/x?y=1", None),
        ("http://example.org/x", "not encrypted"),
        ("https://example.org.evil.com/x", "host"),
        ("https://evil.com/example.org", "host"),
        ("https://evil.com#example.org", "host"),
        ("https://example.org@evil.com/", "plain"),
        ("https://evil.com\\@example.org/", "plain"),
        ("https://evil.com\\.example.org/", "plain"),
        ("https://example.org/\r\nHost: evil.com", "plain"),
        ("https://example.org/a b", "plain"),
        ("ftp://example.org/x", "not encrypted"),
        ("file:///etc/passwd", "not encrypted"),
        ("https://[", "not an address"),
        ("//example.org/x", "not encrypted"),
        ("http://127.0.0.1/x", "host"),
        ("", "not encrypted"),
    ],
)
def test_nothing_is_read_but_from_the_named_hosts_encrypted(url, reason):
    refusal = HOME.refusal(url)
    assert refusal is None if reason is None else reason in str(refusal)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="htps:/@.#?\\[]%0 examplorgv\t\n", max_size=30))
def test_an_address_that_is_accepted_has_a_named_host_for_every_reader(text):
    for url in (text, f"https://{text}", f"https://example.org{text}"):
        if HOME.refusal(url) is None:
            authority = re.match(r"https://([^/?#]*)", url, re.IGNORECASE)
            assert authority is not None
            assert authority[1].split(":")[0].lower() in HOME.hosts
            assert urlsplit(url).hostname in HOME.hosts


def test_loopback_needs_no_encryption_but_must_be_named():
    home = replace(HOME, hosts=frozenset({"localhost"}))
    assert home.refusal("http://localhost:8000/x") is None
    assert home.refusal("http://127.0.0.1:8000/x") is not None


# What was begun


def test_what_was_begun_is_read_back(tmp_path):
    part = Part("https://example.org/x", '"etag"', "Wed, 27 May 2020 23:59:00 GMT", 7)
    part.write(tmp_path / "a.part")
    assert Part.read(tmp_path / "a.part") == part
    assert Part.read(tmp_path / "b.part") is None


@pytest.mark.parametrize(
    ("etag", "modified", "validator"),
    [
        ('"strong"', "date", '"strong"'),
        ('W/"weak"', "date", "date"),
        ('W/"weak"', None, None),
        (None, None, None),
        ('"a\r\n b"', None, None),
        ('"caf\xe9"', None, None),
        ("", "", None),
    ],
)
def test_only_a_strong_validator_joins_parts(etag, modified, validator):
    assert Part("https://example.org", etag, modified).validator == validator


# Records


def write_record(folder, text):
    (folder / "anyone").mkdir()
    (folder / "anyone" / LOCK).write_bytes(text if isinstance(text, bytes) else json.dumps(text).encode())


def test_files_are_there_where_their_record_fits(tmp_path):
    assert find_fetched(ANYONE, tmp_path) is None
    write_record(tmp_path, asdict(RECORD))
    assert read_lock(tmp_path / "anyone") == RECORD
    assert find_fetched(ANYONE, tmp_path) is None, "without files"
    (tmp_path / "anyone" / "a.png").write_bytes(b"1")
    assert find_fetched(ANYONE, tmp_path) == RECORD
    assert find_fetched(ANYONE, tmp_path, "a" * 64) == RECORD
    assert find_fetched(ANYONE, tmp_path, "c" * 64) is None
    for home in (replace(HOME, address="https://example.org/newer.zip"), replace(HOME, sha256="c" * 64)):
        assert find_fetched(replace(ANYONE, home=home), tmp_path) is None


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"\xff\xfe", b"[]", {}, asdict(RECORD) | {"files": "1"}, asdict(RECORD) | {"sha256": None}],
    ids=["empty", "cut", "bytes", "list", "nothing", "text", "null"],
)
def test_a_damaged_record_is_one_sentence(text, tmp_path):
    write_record(tmp_path, text)
    with pytest.raises(UserError, match="is not as"):
        find_fetched(ANYONE, tmp_path)


def test_a_file_in_the_folders_place_is_one_sentence(tmp_path):
    (tmp_path / "anyone").write_text("mine")
    with pytest.raises(UserError, match="was not fetched"):
        find_fetched(ANYONE, tmp_path)


# Kaggle's client

CLIENT = """#!{python}
import os, shutil, sys
words = sys.argv[1:]
open(os.environ["SEEN"], "w").write("\\n".join(words))
status = int(os.environ["STATUS"])
if status == 0:
    folder = words[words.index("--path") + 1]
    os.makedirs(folder, exist_ok=True)
    shutil.copy(os.environ["ARCHIVE"], os.path.join(folder, words[2].split("/")[1] + ".zip"))
sys.exit(status)
"""

ADDRESS = "https://www.kaggle.com/datasets/owner/the-set"
DATASET = replace(ANYONE, home=KaggleDataset("owner/the-set", most_bytes=100_000))


@pytest.fixture
def client(tmp_path, monkeypatch):
    """A client of Kaggle that gives an archive, and the folder of sources."""
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        archive.writestr("a.png", b"1")
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "kaggle"
    script.write_text(CLIENT.format(python=sys.executable))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    for name, value in (("SEEN", tmp_path / "seen"), ("ARCHIVE", tmp_path / "archive"), ("STATUS", "0")):
        monkeypatch.setenv(name, str(value))
    return tmp_path / "data"


def test_a_data_set_of_kaggle_comes_by_its_own_client(client, tmp_path):
    record = fetch(DATASET, client, Nobody())
    words = ["datasets", "download", "owner/the-set", "--path", str(client / "anyone.kaggle")]
    assert (tmp_path / "seen").read_text().splitlines() == words
    assert record.sha256 == hashlib.sha256((tmp_path / "archive").read_bytes()).hexdigest()
    assert record.address == ADDRESS
    assert {path.name for path in client.iterdir()} == {"anyone", ".fetching"}
    assert (client / "anyone" / "a.png").read_bytes() == b"1"


def test_a_client_that_fails_is_one_sentence(client, monkeypatch):
    monkeypatch.setenv("STATUS", "1")
    with pytest.raises(UserError, match=r"status 1 .*token.* https://www.kaggle.com/datasets/owner/the-set"):
        fetch(DATASET, client, Nobody())


def test_a_client_that_is_not_installed_is_one_sentence_with_what_installs_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(catalogue, "SOURCES", {"anyone": DATASET})
    for ask in (
        lambda: fetch(DATASET, tmp_path / "data", Nobody()),
        lambda: fetch_command("anyone", tmp_path / "data", None, yes=True),
    ):
        with pytest.raises(UserError, match=r"`pip install kaggle`.*token"):
            ask()
    assert not (tmp_path / "data").exists()


def test_the_command_fetches_by_the_client(client, monkeypatch):
    monkeypatch.setattr(catalogue, "SOURCES", {"anyone": DATASET})
    result = CliRunner().invoke(fetch_click, ["anyone", "--out", str(client), "--yes"], catch_exceptions=False)
    assert "size     not known beforehand" in result.output
    assert "anyone: 1 files" in result.output


def test_more_than_a_data_set_can_have_is_refused(client):
    with pytest.raises(CxrdistError, match="more than 10 bytes"):
        fetch(replace(DATASET, home=KaggleDataset("owner/the-set", most_bytes=10)), client, Nobody())


# What a person sees


@pytest.mark.parametrize("digest", ["", "abc", "g" * 64, "a" * 63, "a" * 65, " " + "a" * 63])
def test_a_hash_that_is_none_is_one_sentence(digest, tmp_path):
    with pytest.raises(UserError, match=r"--sha256 is .*64 hexadecimal digits"):
        fetch_command("cohen", tmp_path, digest, yes=True)


def test_the_terms_stand_there_before_anybody_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "SOURCES", {"anyone": DATASET})
    result = CliRunner().invoke(fetch_click, ["anyone", "--out", str(tmp_path), "--sha256", "A" * 64])
    assert isinstance(result.exception, UserError)
    assert "--yes" in str(result.exception)
    for text in ("A set", ADDRESS, "CC0", "Cite it.", "Nobody 2020.", "a" * 64, str(tmp_path)):
        assert text in result.output


def test_a_replaced_copy_and_the_recorded_hash_are_announced(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "SOURCES", {"anyone": DATASET})
    write_record(tmp_path, asdict(replace(RECORD, address=ADDRESS)))
    shown = CliRunner().invoke(fetch_click, ["anyone", "--out", str(tmp_path)]).output
    assert f"{'a' * 64} (from {tmp_path / 'anyone' / LOCK})" in shown
    assert "replaces" not in shown
    (tmp_path / "anyone" / "a.png").write_bytes(b"1")
    write = asdict(replace(RECORD, address="https://example.org/older.zip"))
    (tmp_path / "anyone" / LOCK).write_text(json.dumps(write))
    shown = CliRunner().invoke(fetch_click, ["anyone", "--out", str(tmp_path)]).output
    assert "replaces what was fetched on 2020-05-27" in shown
    assert "none is known beforehand" in shown


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (617_300_000, "617.3 MB"), (4e9, "4.0 GB")]
)
def test_sizes_are_for_people(size, text):
    assert size_text(int(size)) == text


def test_a_log_has_few_lines_and_an_estimate(monkeypatch):
    clock = iter([*range(1000, 1101)])
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        console = Console(file=nowhere, record=True, width=200, force_terminal=False)
        display = fetch_display(console)
        for second in range(101):
            display.show(second * 10_000_000, 1_000_000_000)
        lines = console.export_text().splitlines()
    assert len(lines) == 21
    assert lines[0] == "received 0 bytes of 1.0 GB"
    assert lines[10] == "received 500.0 MB of 1.0 GB, about 50 s left"
    assert lines[-1] == "received 1.0 GB of 1.0 GB"
