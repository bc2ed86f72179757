"""Archives from strangers: what is good comes out whole; what is hostile is named, and nothing leaves the folder."""

import gzip
import hashlib
import io
import random
import stat
import struct
import subprocess
import tarfile
import warnings
import zipfile
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrdist.cohort import archives
from cxrdist.cohort.archives import ArchiveError, Limits, Unpacked, safe_path, unpack

LIMITS = Limits(total_bytes=1 << 30)
FILES = {"set/images/a.png": random.Random(0).randbytes(3000), "set/metadata.csv": b"a,b\n1,2\n", "set/empty": b""}


def zip_of(files, **info):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            member = zipfile.ZipInfo(name)
            member.compress_type = zipfile.ZIP_DEFLATED
            for key, value in info.items():
                setattr(member, key, value)
            with warnings.catch_warnings(action="ignore", category=UserWarning):  # a name twice
                archive.writestr(member, content)
    return packed.getvalue()


def tar_of(files, format=tarfile.PAX_FORMAT, **info):  # noqa: A002 - tarfile's word
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=format, encoding="utf-8", errors="surrogateescape") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for key, value in info.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def gz_of(files, **info):
    return gzip.compress(tar_of(files, **info), compresslevel=1)


PACKERS = {"zip": zip_of, "tar": tar_of, "tar.gz": gz_of}
every_kind = pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)


def unpack_bytes(content, folder, limits=LIMITS):
    """Unpacks into folder/out; returns what is there afterwards, and checks that nothing else is."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "archive").write_bytes(content)
    before = set(folder.rglob("*"))
    try:
        return unpack(folder / "archive", folder / "out", limits)
    finally:
        outside = {p for p in folder.rglob("*") if not p.is_relative_to(folder / "out")}
        assert outside == before
        assert not any(path.is_symlink() for path in folder.rglob("*"))


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@every_kind
def test_what_was_packed_comes_out(pack, tmp_path):
    unpacked = unpack_bytes(pack(FILES), tmp_path)
    assert contents(tmp_path / "out") == FILES
    assert (unpacked.files, unpacked.bytes) == (3, sum(map(len, FILES.values())))


def test_the_hash_of_the_contents_is_that_of_sha256sum_however_they_are_packed(tmp_path):
    made = {kind: unpack_bytes(pack(FILES), tmp_path / kind) for kind, pack in PACKERS.items()}
    made["reversed"] = unpack_bytes(tar_of(dict(reversed(FILES.items()))), tmp_path / "reversed")
    assert len({unpacked.sha256 for unpacked in made.values()}) == 1
    names = "\n".join(sorted(FILES, key=str.encode))
    listed = subprocess.run(
        ["xargs", "-d", "\n", "sha256sum"],
        input=names,
        cwd=tmp_path / "zip/out",
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert made["zip"].sha256 == hashlib.sha256(listed.encode()).hexdigest()


@pytest.mark.parametrize("change", [{"set/empty": b"x"}, {"set/other": b""}])
def test_other_contents_have_another_hash(change, tmp_path):
    assert (
        unpack_bytes(zip_of(FILES | change), tmp_path / "b").sha256
        != unpack_bytes(zip_of(FILES), tmp_path / "a").sha256
    )


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_format_of_tar_and_long_names_are_read(format, tmp_path):  # noqa: A002
    files = {"n" * 60 + "/" + "ä" * 20: b"1", "./b/c": b"2"}
    unpack_bytes(tar_of(files, format=format), tmp_path)
    assert contents(tmp_path / "out") == {str(PurePosixPath(name)): content for name, content in files.items()}


def test_an_archive_of_git_is_read(tmp_path):
    content = tarfile.TarInfo("pax_global_header")
    content.type = tarfile.XGLTYPE
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", pax_headers={"comment": "0" * 40}) as archive:
        for name in ("repository-0000", "repository-0000/images"):
            folder = tarfile.TarInfo(name)
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
        archive.addfile(tarfile.TarInfo("repository-0000/images/a.png"))
    unpack_bytes(gzip.compress(packed.getvalue()), tmp_path)
    assert list(contents(tmp_path / "out")) == ["repository-0000/images/a.png"]


def test_permissions_are_not_taken_over(tmp_path):
    unpack_bytes(tar_of({"a": b"#!"}, mode=0o6777), tmp_path)
    assert (tmp_path / "out" / "a").stat().st_mode & 0o7111 == 0


HOSTILE_NAMES = {
    "../a": "leads out",
    "a/../../b": "leads out",
    "a/..": "leads out",
    "/etc/passwd": "absolute",
    "//a/b": "absolute",
    "C:/a": "absolute",
    "c:a": "absolute",
    "..\\a": "backslash",
    "a\\b": "backslash",
    "a\nb": "control",
    "a\x1b[31m": "control",
    "n" * 256: "too long",
    "/".join(["long"] * 300): "too long",
}


@every_kind
@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_hostile_path_is_refused_by_name(pack, name, tmp_path):
    with pytest.raises(ArchiveError, match=HOSTILE_NAMES[name]) as refused:
        unpack_bytes(pack({"good": b"1", name: b"2"}), tmp_path)
    assert ascii(name)[1:-1][:150] in str(refused.value)
    assert str(refused.value).isprintable()


def test_a_name_that_ends_at_a_null_byte_is_refused(tmp_path):
    content = zip_of({"a.pngX../../b": b"1"}).replace(b"a.pngX../../b", b"a.png\0../../b")
    with pytest.raises(ArchiveError, match=r"leads out|control"):
        unpack_bytes(content, tmp_path)


def test_a_name_that_is_not_text_is_refused(tmp_path):
    with pytest.raises(ArchiveError, match="not valid UTF-8"):
        unpack_bytes(tar_of({"\udcff.png": b"1"}, format=tarfile.GNU_FORMAT), tmp_path)


@every_kind
@pytest.mark.parametrize(
    ("names", "word"),
    [
        (("a/X.png", "a/x.png"), "alone"),
        (("A/1.png", "a/2.png"), "alone"),
        (("caf\u00e9", "cafe\u0301"), "alone"),
        (("stra\u00dfe", "STRASSE"), "alone"),
        (("a", "a/b"), "twice"),
        (("a/b", "a"), "twice"),
        (("a/./b", "a/b"), "twice"),
        (("a//b", "a/b"), "twice"),
    ],
)
def test_two_names_of_one_file_are_refused(pack, names, word, tmp_path):
    with pytest.raises(ArchiveError, match=word):
        unpack_bytes(pack({name: name.encode() for name in names}), tmp_path)


@pytest.mark.parametrize("name", ["", ".", "./"])
def test_a_file_without_a_name_is_refused(name, tmp_path):
    with pytest.raises(ArchiveError):
        unpack_bytes(tar_of({name: b"1"}), tmp_path)


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (tarfile.SYMTYPE, "symbolic link"),
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.BLKTYPE, "device"),
        (tarfile.FIFOTYPE, "pipe"),
        (tarfile.GNUTYPE_SPARSE, "special kind|damaged"),
        (b"Z", "special kind"),
    ],
)
@pytest.mark.parametrize("linkname", ["/etc/passwd", "../..", "good"])
def test_in_a_tar_archive_links_and_devices_are_refused(kind, word, linkname, tmp_path):
    good, bad = tar_of({"good": b"1"}).rstrip(b"\0"), tar_of({"bad": b""}, type=kind, linkname=linkname)
    content = good + b"\0" * (-len(good) % 512) + bad
    with pytest.raises(ArchiveError, match=word) as refused:
        unpack_bytes(content, tmp_path)
    assert "'bad'" in str(refused.value)
    assert contents(tmp_path / "out") == {"good": b"1"}


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_in_a_zip_archive_links_and_devices_are_refused(kind, tmp_path):
    with pytest.raises(ArchiveError, match=r"'bad' is (a symbolic link|a device|of a special kind)"):
        unpack_bytes(zip_of({"bad": b"/etc/passwd"}, create_system=3, external_attr=(kind | 0o777) << 16), tmp_path)


def test_nothing_is_written_through_a_link(tmp_path):
    """A link as a folder, then a file below it: the second member of such an archive would leave the folder."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        link = tarfile.TarInfo("out")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        archive.addfile(link)
        file = tarfile.TarInfo("out/stolen")
        archive.addfile(file)
    with pytest.raises(ArchiveError, match="symbolic link"):
        unpack_bytes(packed.getvalue(), tmp_path)


def test_an_encrypted_member_is_refused(tmp_path):
    content = bytearray(zip_of({"a": b"1"}))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(ArchiveError, match="the member 'a' is encrypted"):
        unpack_bytes(bytes(content), tmp_path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_expand_without_bound_are_refused(method, tmp_path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        archive.writestr("a", bytes(1000))
    with pytest.raises(ArchiveError, match="not supported"):
        unpack_bytes(packed.getvalue(), tmp_path)


@every_kind
def test_a_bomb_is_refused_before_it_grows(pack, tmp_path):
    bomb = pack({"good": b"1", "bomb": bytes(2_000_000)})
    limits = Limits(total_bytes=100_000)
    with pytest.raises(ArchiveError, match="'bomb' it would grow"):
        unpack_bytes(bomb, tmp_path, limits)
    assert sum(map(len, contents(tmp_path / "out").values())) <= limits.total_bytes


@pytest.mark.parametrize("pack", [zip_of, gz_of], ids=["zip", "tar.gz"])
def test_what_shrank_too_much_is_refused(pack, tmp_path, monkeypatch):
    bomb = pack({"bomb": bytes(2_000_000)})
    unpack_bytes(bomb, tmp_path / "small")
    monkeypatch.setattr(archives, "_ALWAYS_ALLOWED", 1_000_000)
    with pytest.raises(ArchiveError, match="'bomb' it would grow"):
        unpack_bytes(bomb, tmp_path / "large")


def test_a_large_archive_may_hold_a_hundred_times_its_bytes_and_no_more_than_the_source():
    assert Limits(total_bytes=10**12).allowed(10**9) == 10**11
    assert Limits(total_bytes=10**10).allowed(10**9) == 10**10


def test_a_zip_archive_that_lies_about_a_size_does_not_grow_beyond_it(tmp_path):
    honest = zip_of({"bomb": bytes(1_000_000)})
    lying = honest.replace(struct.pack("<I", 1_000_000), struct.pack("<I", 10))
    assert lying != honest
    with pytest.raises(ArchiveError):
        unpack_bytes(lying, tmp_path, Limits(total_bytes=1000))
    assert sum(map(len, contents(tmp_path / "out").values())) <= 1000


def test_a_zip_archive_whose_member_is_shorter_than_it_says_is_refused(tmp_path):
    honest = zip_of({"a": bytes(1_000_000)})
    lying = honest.replace(struct.pack("<I", 1_000_000), struct.pack("<I", 1_000_001))
    with pytest.raises(ArchiveError, match="'a' is not as long as it should be"):
        unpack_bytes(lying, tmp_path)


def test_a_bomb_behind_the_end_of_a_tar_archive_is_refused(tmp_path):
    bomb = gzip.compress(tar_of({"a": b"1"}) + bytes(3_000_000))
    unpack_bytes(bomb, tmp_path / "small")
    with pytest.raises(ArchiveError, match="would grow"):
        unpack_bytes(bomb, tmp_path / "large", Limits(total_bytes=1000, members=3))


@every_kind
@pytest.mark.parametrize("names", [["a", "b", "c", "d"], ["a/b/c/d"]])
def test_too_many_members_are_refused_folders_included(pack, names, tmp_path):
    files = dict.fromkeys(names, b"")
    with pytest.raises(ArchiveError, match="more than 3 members"):
        unpack_bytes(pack(files), tmp_path / "a", Limits(total_bytes=1000, members=3))
    unpack_bytes(pack(files), tmp_path / "b", Limits(total_bytes=1000, members=4))


def pax_header(content):
    """A header of tar that its parser takes into memory whole."""
    info = tarfile.TarInfo("header")
    info.type, info.size = tarfile.XHDTYPE, len(content)
    return info.tobuf() + content + b"\0" * (-len(content) % 512)


@pytest.mark.parametrize("size", [100_000, 1 << 33])
def test_a_header_that_would_fill_the_memory_is_refused(size, tmp_path):
    info = tarfile.TarInfo("header")
    info.type, info.size = tarfile.XHDTYPE, size
    with pytest.raises(ArchiveError, match="headers is longer"):
        unpack_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(200_000), tmp_path)


@pytest.mark.parametrize("size", [b"-512", b"-1024", b"-1"])
def test_a_header_that_leads_back_does_not_read_in_a_circle(size, tmp_path):
    record = b" size=" + size + b"\n"
    content = pax_header(f"{len(record) + 2}".encode() + record) + tar_of({"a": b""})
    with pytest.raises(ArchiveError):
        unpack_bytes(content, tmp_path)


def test_headers_without_end_are_refused(tmp_path):
    with pytest.raises(ArchiveError, match="damaged"):
        unpack_bytes(pax_header(b"") * 3000 + tar_of({"a": b""}), tmp_path)


@every_kind
def test_a_truncated_archive_is_refused(pack, tmp_path):
    whole = pack(FILES)
    # Tar fills up with zeros, which are not missed.
    end = len(whole.rstrip(b"\0")) if pack is tar_of else len(whole)
    for number, length in enumerate([0, 3, 100, 512, end // 2, end - 1]):
        with pytest.raises(ArchiveError):
            unpack_bytes(whole[:length], tmp_path / str(number))


def test_a_tar_archive_cut_between_two_members_is_refused(tmp_path):
    with pytest.raises(ArchiveError, match="no end"):
        unpack_bytes(tar_of({"a": b"1", "b": b"2"})[: 2 * 512], tmp_path)


@pytest.mark.parametrize("content", [b"<!DOCTYPE html>" * 100, b"Rar!\x1a\x07\x00" * 100, b"\x1f\x8b", b"PK\x03\x04"])
def test_what_is_no_archive_is_refused(content, tmp_path):
    with pytest.raises(ArchiveError, match="damaged"):
        unpack_bytes(content, tmp_path)


def test_a_folder_that_is_there_is_not_touched(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "archive").write_bytes(zip_of(FILES))
    with pytest.raises(FileExistsError):
        unpack(tmp_path / "archive", tmp_path / "out", LIMITS)
    assert not contents(tmp_path / "out")


fragments = st.sampled_from(
    ["..", ".", "", "/", "a", "A", "b", "\\", "C:", "\0", "\x7f", "ß", "ss", "é", "e\u0301", "~"]
)
names = st.one_of(
    st.lists(st.one_of(fragments, st.text(max_size=3)), min_size=1, max_size=5).map("/".join),
    st.lists(fragments, max_size=4).map("".join),
    st.text(max_size=12),
)


@settings(max_examples=80, deadline=None)
@given(files=st.dictionaries(names, st.binary(max_size=20), min_size=1, max_size=4), kind=st.sampled_from([*PACKERS]))
def test_whatever_the_names_all_comes_out_or_the_archive_is_refused(files, kind, tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    try:
        content = PACKERS[kind](files)
    except (UnicodeEncodeError, ValueError):
        return
    try:
        unpacked = unpack_bytes(content, folder)
    except ArchiveError as refused:
        assert str(refused).isprintable()
    else:
        found = contents(folder / "out")
        assert unpacked.files == len(found) <= len(files)
        # A name ends at a null byte where an archive is written, but for the newest kind of tar.
        given = {str(PurePosixPath(n)): c for name, c in files.items() for n in (name, name.split("\0")[0])}
        assert found.items() <= given.items()


@settings(max_examples=200, deadline=None)
@given(names)
def test_a_path_that_is_taken_stays_in_the_folder(name):
    try:
        path = safe_path(name)
    except ArchiveError:
        return
    assert not path.is_absolute()
    assert ".." not in path.parts
    assert (Path("/root") / path).resolve().is_relative_to("/root")


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from([*PACKERS]), seed=st.integers(0, 2**32), places=st.integers(1, 6))
def test_damaged_bytes_are_refused_or_do_no_harm(kind, seed, places, tmp_path_factory):
    content = bytearray(PACKERS[kind](FILES))
    draw = random.Random(seed)
    for _ in range(places):
        content[draw.randrange(len(content))] = draw.randrange(256)
    folder = tmp_path_factory.mktemp("damaged")
    try:
        unpacked = unpack_bytes(bytes(content), folder)
    except ArchiveError as refused:
        assert str(refused).isprintable()
    else:
        assert isinstance(unpacked, Unpacked)
        if kind == "tar.gz":
            assert contents(folder / "out") == FILES
