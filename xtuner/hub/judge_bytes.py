"""`--deep`: what the bytes of the weights say, and whether the files are those that were downloaded."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from xtuner.hub.checksums import Checksum, known_checksum
from xtuner.hub.findings import Finding, HubError, fail, info, shown, shown_names, shown_path, warn
from xtuner.hub.regular_file import AGAIN, unreadable
from xtuner.hub.safetensors_header import SafetensorsHeader
from xtuner.hub.scan import FileScan, file_matches, scan_weight_file
from xtuner.hub.unwritten import judge_holes, may_be_zero

_MAX_THREADS = 8  # SHA-256 runs beside the others; the scan holds the interpreter
_REPORT_EVERY_S = 0.2
_SUFFIXES_OF_TEXT = (".json", ".jinja", ".txt", ".model")


@dataclass(frozen=True)
class ScanProgress:
    """How far the reading of the weights is, in bytes."""

    read_bytes: int
    total_bytes: int


OnProgress = Callable[[ScanProgress], None]


def judge_bytes(
    directory: Path, names: list[str], headers: Mapping[Path, SafetensorsHeader], on_progress: OnProgress | None
) -> list[Finding]:
    """Read every byte of the weight files, and hash every file that a download left a checksum of.

    `names` is the directory's listing. Files that cannot be read are findings, too.
    """
    checksums = {path: known_checksum(path) for path in headers}
    scans = _scan_all(headers, checksums, on_progress)
    findings: list[Finding] = []
    for path, scan in scans.items():
        if isinstance(scan, HubError):
            findings.append(scan.finding())
        else:
            findings += _judge_scan(path, headers[path], scan, checksums[path])
    texts = [directory / name for name in names if name.endswith(_SUFFIXES_OF_TEXT)]
    return [*findings, *_judge_texts(texts), _count_checksums(scans)]


def _scan_all(
    headers: Mapping[Path, SafetensorsHeader],
    checksums: Mapping[Path, Checksum | None],
    on_progress: OnProgress | None,
) -> dict[Path, FileScan | HubError]:
    """A scan of each file, several at a time; `on_progress` is called in this thread."""
    sizes = {path: os.path.getsize(path) for path in headers}
    read_bytes = dict.fromkeys(headers, 0)
    is_over = threading.Event()

    def scan(path: Path) -> FileScan | HubError:
        def count(num_bytes: int) -> None:
            read_bytes[path] += num_bytes
            if is_over.is_set():
                raise HubError("UNREADABLE", f"{shown_path(path)} was not read to its end")

        try:
            return scan_weight_file(path, headers[path], checksums[path], count)
        except HubError as error:
            return error
        except OSError as error:
            return unreadable(path, error)

    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as threads:
        futures = {path: threads.submit(scan, path) for path in headers}
        try:
            pending = set(futures.values())
            while pending:
                _, pending = wait(pending, timeout=_REPORT_EVERY_S)
                if on_progress:
                    on_progress(ScanProgress(sum(read_bytes.values()), sum(sizes.values())))
        finally:  # after Ctrl-C, too, none goes on reading
            is_over.set()
            threads.shutdown(cancel_futures=True)
    return {path: future.result() for path, future in futures.items()}


def _judge_scan(path: Path, header: SafetensorsHeader, scan: FileScan, checksum: Checksum | None) -> Iterator[Finding]:
    if checksum and scan.matches is False:
        yield _explain_mismatch(path, checksum)
    if scan.non_finite:
        name, position = next(iter(scan.non_finite.items()))
        message = (
            f"{shown_path(path)} holds NaN or infinity in {len(scan.non_finite):,} of its "
            f"{len(header.tensors):,} tensors, first in {shown(name)} at element {position:,}: "
            f"{shown_names(list(scan.non_finite))}"
        )
        hint = (
            "its checksum is right, so the publisher's file is broken: use another revision" if scan.matches else AGAIN
        )
        yield fail("NOT_FINITE", message, hint)
    yield from _judge_zeros(path, header, scan)


def _judge_zeros(path: Path, header: SafetensorsHeader, scan: FileScan) -> Iterator[Finding]:
    """Matrices of zeros at the end of a file were never written; elsewhere they may be meant.

    Added layers start with zeros where they feed the residual stream (LLaMA Pro, arXiv:2401.02415), and one such
    matrix may be the last of its file: two in a row, or a whole file, are not.
    """
    zeros = [name for name in scan.zeros if not may_be_zero(name, header.tensors[name])]
    tail = [name for name in scan.ends_in_zeros if name in set(zeros)]
    is_unwritten = scan.matches is not True and (len(tail) > 1 or (tail and len(scan.zeros) == len(header.tensors)))
    hole = None if is_unwritten else judge_holes(path, header)
    if hole:
        yield hole
    if is_unwritten:
        message = f"{shown_path(path)} ends in zeros, as if it was never written to its end: {shown_names(tail)}"
        yield fail("ZERO_FILLED", message, AGAIN)
    rest = [name for name in zeros if not is_unwritten or name not in set(tail)]
    if rest:
        message = f"{shown_path(path)} has matrices of nothing but zeros: {shown_names(rest)}"
        yield warn("ZERO_MATRIX", message, "layers that were added may begin so; else download the file again")


def _judge_texts(paths: list[Path]) -> Iterator[Finding]:
    changed = []
    for path in paths:
        checksum = known_checksum(path)
        try:
            if checksum and not file_matches(path, checksum):
                changed.append(path.name)
        except (HubError, OSError):
            continue  # whoever needs the file says so
    if changed:
        message = f"files were changed since they were downloaded: {shown_names(changed)}"
        yield warn("CHANGED_FILE", message, "nothing to do if you changed them; else download them again")


def _explain_mismatch(path: Path, checksum: Checksum) -> Finding:
    what = f"{shown_path(path)} has not the checksum of its download ({checksum.etag[:12]}…)"
    if checksum.is_outdated:
        hint = "nothing to do if you wrote it (a merge, a conversion); else download it again"
        return warn("CHANGED_FILE", f"{what}; it was written to since", hint)
    return fail("CHECKSUM_MISMATCH", what, f"its bytes were damaged: {AGAIN}")


def _count_checksums(scans: Mapping[Path, FileScan | HubError]) -> Finding:
    num_right = sum(isinstance(scan, FileScan) and scan.matches is True for scan in scans.values())
    if not any(isinstance(scan, FileScan) and scan.matches is not None for scan in scans.values()):
        return info("CHECKSUMS", "no download left checksums of the weight files to compare with")
    return info("CHECKSUMS", f"{num_right} of {len(scans)} weight files have the checksum of their download")
