"""Decodes one JPEG frame with GDCM, from stdin to stdout; see `cxrdist.cohort.dicom_frames`.

A script of its own, which imports nothing of the package: GDCM's exceptions are not translated for Python, so that a
damaged frame ends the process (python-gdcm's issue 34), or worse.

Arguments: rows, columns, bits of a pixel in the frame, UID of the transfer syntax, most bytes of memory.
"""

import os
import resource
import sys

import gdcm  # type: ignore[import-untyped]


def main() -> None:
    """Write the pixels row by row, 1 byte each up to 8 bits, else 2 bytes, the lower one first."""
    rows, columns, bits = map(int, sys.argv[1:4])
    transfer_syntax, memory = sys.argv[4], int(sys.argv[5])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    # A dump of memory would keep a patient's image.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(sys.stdin.buffer.read())
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    pixel_data = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    pixel_data.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(pixel_data)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(transfer_syntax)))
    image.SetPixelFormat(gdcm.PixelFormat(1, 8 if bits <= 8 else 16, bits, bits - 1, 0))
    # SWIG's way to hand over bytes as text.
    sys.stdout.buffer.write(image.GetBuffer().encode("utf-8", "surrogateescape"))
    sys.stdout.flush()
    # GDCM's objects may not survive being freed by Python in its own order.
    os._exit(0)


if __name__ == "__main__":
    main()
