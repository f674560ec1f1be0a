"""Tar files: members found by their headers, against the standard library's reader; and every trick that a stranger's tar can play."""

import io
import os
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrun.errors import DataError
from dsrun.speech import tar_shards
from dsrun.speech.tar_shards import Member, list_members

LONG = "speakers/" + "n" * 120 + "/" + "m" * 130 + ".flac"
NAMES = ("a.wav", "sub folder/b c.flac", LONG, "französisch/élan.ogg", "f" * 99, "g" * 100, "h" * 101)


def make(path, *members, format=tarfile.PAX_FORMAT):
    """A tar of (name or TarInfo, content)."""
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def special(name, kind, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def refusal(path):
    with pytest.raises(DataError) as error:
        list(list_members(path))
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value)


def checked(header: bytearray) -> bytes:
    """The header with its checksum put right."""
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_that_the_standard_library_finds_where_it_finds_them(tmp_path, format):
    # ustar has no room for the long one and, by the standard, no letters beyond ASCII.
    names = [name for name in NAMES if format != tarfile.USTAR_FORMAT or (name.isascii() and len(name) < 101)]
    path = make(
        tmp_path / "a.tar", *((name, os.urandom(7 * len(name))) for name in names), ("empty", b""), format=format
    )
    with tarfile.open(path) as tar:
        expected = [Member(info.name, info.offset_data, info.size) for info in tar]
    assert list(list_members(path)) == expected
    assert [member.name for member in expected] == [*names, "empty"]
    content = path.read_bytes()
    with tarfile.open(path) as tar:
        for member in expected:
            assert content[member.offset : member.offset + member.size] == tar.extractfile(member.name).read()


def test_a_ustar_name_in_two_parts_is_joined(tmp_path):
    name = "d" * 80 + "/" + "n" * 90
    path = make(tmp_path / "a.tar", (name, b"x"), format=tarfile.USTAR_FORMAT)
    assert [member.name for member in list_members(path)] == [name]


def test_folders_are_passed_over_and_a_leading_dot_is_no_part_of_a_name(tmp_path):
    path = make(tmp_path / "a.tar", (special("./sub", tarfile.DIRTYPE), b""), ("./sub/a.wav", b"12"))
    assert list(list_members(path)) == [Member("sub/a.wav", 1024, 2)]


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(0, 3000), max_size=12))
def test_contents_of_any_sizes_lie_where_they_are_said_to(tmp_path_factory, sizes):
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    contents = [bytes([number + 1]) * size for number, size in enumerate(sizes)]
    make(path, *((f"{number}", content) for number, content in enumerate(contents)))
    data = path.read_bytes()
    assert [data[m.offset : m.offset + m.size] for m in list_members(path)] == contents


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_tar_is_refused_with_the_way_out(tmp_path, mode):
    with tarfile.open(tmp_path / "a.tar", mode) as tar:
        tar.addfile(tarfile.TarInfo("a"))
    assert "compressed" in refusal(tmp_path / "a.tar")
    assert refusal(tmp_path / "a.tar").endswith("Decompress it.")


@pytest.mark.parametrize("name", ["/etc/passwd", "../up.wav", "a/../../up.wav", "a/..", "."])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    path = make(tmp_path / "a.tar", ("good.wav", b"1"), (name, b"2"))
    assert "write names below" in refusal(path)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a pipe"),
        (tarfile.GNUTYPE_SPARSE, "a sparse file"),
        (b"Z", "of the unknown kind"),
    ],
)
def test_what_is_no_file_is_refused_by_its_name(tmp_path, kind, says):
    path = make(tmp_path / "a.tar", (special("trick.wav", kind, "/etc/passwd"), b""), format=tarfile.GNU_FORMAT)
    assert f"'trick.wav' at byte 0 is {says}" in refusal(path)


def test_a_sparse_member_in_pax_form_is_refused(tmp_path):
    info = tarfile.TarInfo("a.wav")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.realsize": "1000000000000"}
    assert "a sparse file" in refusal(make(tmp_path / "a.tar", (info, b"x")))


@pytest.mark.parametrize("cut", [1, 511, 513, 700, 1024, 1535])
def test_a_tar_cut_off_anywhere_is_refused(tmp_path, cut):
    path = make(tmp_path / "a.tar", ("a.wav", b"x" * 300), ("b.wav", b"y" * 300))
    path.write_bytes(path.read_bytes()[:cut])
    assert "cut off" in refusal(path) or "not a tar file" in refusal(path)


def test_a_size_beyond_the_end_is_refused_before_anything_is_read(tmp_path):
    path = make(tmp_path / "a.tar", ("a.wav", b"x" * 300))
    data = bytearray(path.read_bytes())
    for size in (b"77777777777\0", b"\x80\x00\x00\x00\x7f" + b"\xff" * 7):  # eight GiB; GNU's binary form, 2**63 - 1
        data[124:136] = size
        path.write_bytes(checked(data[:512]) + data[512:])
        assert "cut off: the member at byte 0 has" in refusal(path)


def test_a_pax_size_beyond_the_end_or_no_number_is_refused(tmp_path):
    for size, says in (("1" + "0" * 12, "cut off"), ("-5", "states the size"), ("9" * 40, "states the size")):
        header = tarfile.TarInfo("a.wav")
        content = f"{len(size) + 9} size={size}\n".encode()
        content = content if len(content) == len(size) + 9 else f"{len(size) + 8} size={size}\n".encode()
        path = make(
            tmp_path / "a.tar", (special("pax", tarfile.XHDTYPE), content), (header, b"x"), format=tarfile.USTAR_FORMAT
        )
        assert says in refusal(path)


@pytest.mark.parametrize(
    "records", [b"5 a=b", b"999 path=x\n", b"0 path=x\n", b"path=x\n", b"x path=x\n", b"7 path=x\n"]
)
def test_a_damaged_pax_header_is_refused(tmp_path, records):
    path = make(
        tmp_path / "a.tar", (special("pax", tarfile.XHDTYPE), records), ("a", b"x"), format=tarfile.USTAR_FORMAT
    )
    assert "the pax header at byte 0 is damaged" in refusal(path)


def test_a_pax_path_is_judged_like_any_name(tmp_path):
    path = make(tmp_path / "a.tar", (special("pax", tarfile.XHDTYPE), b"18 path=../up.wav\n"), ("a", b"x"))
    assert "'../up.wav'" in refusal(path)


def test_an_extended_header_of_megabytes_is_refused_unread(tmp_path):
    path = make(
        tmp_path / "a.tar", (special("pax", tarfile.XHDTYPE), b" " * (1 << 20) + b" "), format=tarfile.USTAR_FORMAT
    )
    assert "no name is so long" in refusal(path)


def test_an_extended_header_of_tiny_records_takes_no_time_beyond_its_length(tmp_path):
    # Slicing the rest off at every record would copy half a megabyte a hundred thousand times: minutes.
    records = b"5 a=\n" * 200_000
    path = make(
        tmp_path / "a.tar", (special("pax", tarfile.XHDTYPE), records), ("a", b"x"), format=tarfile.USTAR_FORMAT
    )
    assert [member.name for member in list_members(path)] == ["a"]


@pytest.mark.parametrize("content", [b"", b"text", b"RIFF" * 400, b"\0" * 100, b"\xff" * 2048])
def test_what_is_no_tar_is_refused(tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content)
    assert "not a tar file" in refusal(tmp_path / "a.tar") or "Not a tar file" in refusal(tmp_path / "a.tar")


def test_a_damaged_header_in_the_middle_is_refused(tmp_path):
    path = make(tmp_path / "a.tar", ("a.wav", b"x"), ("b.wav", b"y"))
    data = bytearray(path.read_bytes())
    data[1024] ^= 1
    path.write_bytes(data)
    assert "at byte 1024" in refusal(path)


def test_joined_tar_files_are_refused_since_readers_stop_at_the_first_end(tmp_path):
    one = make(tmp_path / "a.tar", ("a.wav", b"x")).read_bytes()
    (tmp_path / "b.tar").write_bytes(one[:1024] + b"\0" * 512 + one)
    assert "joining" in refusal(tmp_path / "b.tar")


def test_a_name_that_is_no_utf8_is_refused(tmp_path):
    path = make(tmp_path / "a.tar", ("a.wav", b"x"))
    data = bytearray(path.read_bytes())
    data[0] = 0xFF
    path.write_bytes(checked(data[:512]) + data[512:])
    assert "not UTF-8" in refusal(path)


def test_a_tar_of_too_many_members_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tar_shards, "MOST_MEMBERS", 5)
    assert len(list(list_members(make(tmp_path / "a.tar", *((str(n), b"") for n in range(5)))))) == 5
    assert "more than 5 members" in refusal(make(tmp_path / "a.tar", *((str(n), b"") for n in range(6))))


def test_a_missing_file_a_folder_and_a_pipe_are_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("none.tar", "", "pipe"):
        assert refusal(tmp_path / name).endswith("no such tar file.")
