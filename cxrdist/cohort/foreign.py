"""Files that are no images, or of a kind that is not decoded, by their first bytes."""

_KINDS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs", "a Git LFS pointer, not an image"),
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (0, b"%PDF", "a PDF, not an image"),
    (0, b"PK\x03\x04", "a ZIP archive, not an image"),
    (0, b"\x1f\x8b", "compressed by gzip, not an image"),
)
_GROUPS = (b"\x02\0", b"\x08\0")
"""With which the elements of a DICOM file begin: 0002 and 0008."""
_REPRESENTATIONS = (b"UL", b"UI", b"CS", b"OB", b"DA", b"SH")


def what_else_it_is(data: bytes) -> str:
    """Say what a file that begins with `data` is, in words that follow its name, where it is no image that is known."""
    for place, magic, kind in _KINDS:
        if data.startswith(magic, place):
            return (
                f"is {kind}"
                if " " in kind.removeprefix("JPEG ")
                else f"is {kind}, which is not decoded; save it as PNG"
            )
    if data[:2] in _GROUPS and (data[4:6] in _REPRESENTATIONS or data[6:8] == b"\0\0"):
        return (
            "looks like DICOM without its first 132 bytes, which tell that it is; export it anew, or write it with them"
        )
    return "is not an image (JPEG, PNG, TIFF, WebP or DICOM)"
