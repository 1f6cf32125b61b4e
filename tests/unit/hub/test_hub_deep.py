"""`--deep`: every value is looked at, and every checksum that a download left."""

import hashlib
import os
import time

import numpy as np
import pytest
from hub_dirs import TENSORS, make_cached, make_model, make_tensors, plant_canaries
from safetensors.numpy import save_file

from xtuner.hub import judge_bytes as judge_bytes_module
from xtuner.hub import scan
from xtuner.hub.findings import HubError, Severity
from xtuner.hub.model_dir import inspect_model
from xtuner.hub.safetensors_header import read_header
from xtuner.hub.scan import scan_weight_file

WEIGHTS = "model.safetensors"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def _deep(path):
    return {(finding.severity.value, finding.code): finding for finding in inspect_model(path, is_deep=True).findings}


def _overwrite(path, tensor, raw, offset=0):
    """Put `raw` at byte `offset` of a tensor's data; nothing else of the file changes, its times least of all."""
    header, times = read_header(path), os.stat(path)
    with path.open("r+b") as file:
        file.seek(header.data_start + header.tensors[tensor].begin + offset)
        file.write(raw)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _metadata(directory, saved_s=None):
    """What `hf download --local-dir` leaves: SHA-256 of weights, git's SHA-1 of the rest."""
    folder = directory / ".cache" / "huggingface" / "download"
    folder.mkdir(parents=True)
    for path in directory.iterdir():
        if not path.is_file():
            continue
        raw = path.read_bytes()
        is_large = path.suffix == ".safetensors"
        etag = hashlib.sha256(raw) if is_large else hashlib.sha1(b"blob %d\0" % len(raw) + raw)
        text = f"{'c' * 40}\n{etag.hexdigest()}\n{saved_s or time.time()}\n"
        (folder / f"{path.name}.metadata").write_text(text)
    return directory


def test_sound_weights(tmp_path):
    findings = _deep(make_model(tmp_path, shards=3))
    assert list(findings) == [("INFO", "CHECKSUMS")]
    assert "no download left checksums" in findings["INFO", "CHECKSUMS"].message


@pytest.mark.parametrize(
    ("dtype", "raw"),
    [
        ("BF16", b"\x80\x7f"),  # infinity
        ("BF16", b"\x80\xff"),
        ("BF16", b"\xc0\x7f"),  # NaN
        ("F16", b"\x00\x7c"),
        ("F16", b"\x01\xfe"),
        ("F32", b"\x00\x00\x80\x7f"),
        ("F32", b"\x01\x00\x80\xff"),
        ("F64", b"\x00\x00\x00\x00\x00\x00\xf0\x7f"),
        ("F64", b"\x00\x00\x00\x00\x00\x00\xf8\xff"),
    ],
)
def test_one_value_that_is_not_finite(tmp_path, dtype, raw):
    tensors = {name: (dtype, shape) for name, (_, shape) in TENSORS.items()}
    make_model(tmp_path, tensors=tensors)
    _overwrite(tmp_path / WEIGHTS, HEAD, raw, offset=7 * len(raw))
    report = inspect_model(tmp_path, is_deep=True)
    assert not report.ok and inspect_model(tmp_path).ok  # headers and a few samples do not tell
    [finding] = [finding for finding in report.findings if finding.severity is Severity.FAIL]
    assert finding.code == "NOT_FINITE" and f"in 1 of its {len(TENSORS)} tensors" in finding.message
    assert f"first in {HEAD} at element 7:" in finding.message and finding.hint == "download this file again"


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_positions_agree_with_numpy(tmp_path, monkeypatch, dtype):
    """Random bytes have values that are not finite everywhere; small blocks, so that tensors end within them."""
    monkeypatch.setattr(scan, "_BLOCK_BYTES", 64)
    generator, arrays = np.random.default_rng(0), {}
    for number in range(60):
        num_values = int(generator.integers(0, 400))
        arrays[f"t{number}"] = np.frombuffer(generator.bytes(num_values * dtype().itemsize), dtype)
        if number % 3 == 0:
            arrays[f"t{number}"] = np.where(np.isfinite(arrays[f"t{number}"]), arrays[f"t{number}"], dtype(1))
        if number % 7 == 0:
            arrays[f"t{number}"] = np.zeros(num_values, dtype)
    save_file(arrays, tmp_path / WEIGHTS)
    result = scan_weight_file(tmp_path / WEIGHTS, read_header(tmp_path / WEIGHTS), None, lambda num_bytes: None)
    expected = {name: int(np.argmin(np.isfinite(a))) for name, a in arrays.items() if not np.isfinite(a).all()}
    assert result.non_finite == expected and 0 < len(expected) < 50
    assert set(result.zeros) == {name for name, a in arrays.items() if a.size and not any(a.tobytes())} != set()


def test_every_16_bit_pattern_of_bfloat16(tmp_path):
    patterns = np.arange(2**16, dtype="<u2")
    finite = np.isfinite((patterns.astype("<u4") << 16).view("<f4"))
    path = make_model(tmp_path, tensors={"w": ("BF16", [2**16]), "good": ("BF16", [2**16])}) / WEIGHTS
    _overwrite(path, "w", np.concatenate([patterns[finite], patterns[~finite]]).tobytes())
    _overwrite(path, "good", np.resize(patterns[finite], 2**16).tobytes())
    result = scan_weight_file(path, read_header(path), None, lambda num_bytes: None)
    assert result.non_finite == {"w": int(finite.sum())}


def test_whole_numbers_have_no_nan(tmp_path):
    make_model(tmp_path, tensors={**TENSORS, "steps": ("I64", [4]), "kept": ("BOOL", [8])})
    _overwrite(tmp_path / WEIGHTS, "steps", b"\xff" * 32)
    assert inspect_model(tmp_path, is_deep=True).ok


def test_zeros_at_the_end_of_a_file_fail(tmp_path):
    path = make_model(tmp_path) / WEIGHTS
    os.truncate(path, size := path.stat().st_size - 200)
    os.truncate(path, size + 200)
    report = inspect_model(tmp_path, is_deep=True)
    assert [finding.code for finding in report.findings] == ["ZERO_FILLED", "CHECKSUMS"] and not report.ok
    assert report.findings[0].message.endswith(f"down_proj.weight, {HEAD}")


def test_a_file_of_zeros_fails(tmp_path):
    tensors = make_tensors()
    head = {HEAD: tensors.pop(HEAD)}
    make_model(tmp_path, tensors={**tensors, **head}, shards=len(tensors) + 1)
    [path] = [path for path in tmp_path.glob("*.safetensors") if HEAD in read_header(path).tensors]
    _overwrite(path, HEAD, bytes(64))
    assert ("FAIL", "ZERO_FILLED") in _deep(tmp_path)


def test_one_matrix_of_zeros_may_be_meant(tmp_path):
    """As in layers that were added to a model (LLaMA Pro)."""
    make_model(tmp_path, tensors=make_tensors(2), num_hidden_layers=2)
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        tensor = f"model.layers.1.{name}.weight"
        header = read_header(tmp_path / WEIGHTS).tensors[tensor]
        _overwrite(tmp_path / WEIGHTS, tensor, bytes(header.end - header.begin))
    report = inspect_model(tmp_path, is_deep=True)
    assert report.ok and [finding.code for finding in report.findings] == ["ZERO_MATRIX", "CHECKSUMS"]
    assert "o_proj" in report.findings[0].message and "down_proj" in report.findings[0].message
    _overwrite(tmp_path / WEIGHTS, "model.norm.weight", bytes(8))  # a norm of zeros is nothing to look at
    assert len(inspect_model(tmp_path, is_deep=True).findings) == 2


def test_a_hole_within_a_matrix_is_told(tmp_path):
    path = make_model(tmp_path, tensors={**TENSORS, HEAD: ("BF16", [8, 2**18])}) / WEIGHTS
    os.truncate(path, path.stat().st_size - 2**21)
    os.truncate(path, path.stat().st_size + 2**21)
    assert ("WARN", "ZERO_FILLED") in _deep(tmp_path)


def test_checksums_of_a_local_dir(tmp_path):
    _metadata(make_model(tmp_path, shards=3))
    [finding] = inspect_model(tmp_path, is_deep=True).findings
    assert finding.code == "CHECKSUMS" and finding.message.startswith("3 of 3 weight files")


def test_a_damaged_file_of_a_local_dir(tmp_path):
    _metadata(make_model(tmp_path))
    _overwrite(tmp_path / WEIGHTS, EMBEDDING, b"\x3d")
    finding = _deep(tmp_path)["FAIL", "CHECKSUM_MISMATCH"]
    assert WEIGHTS in finding.message and "damaged" in finding.hint


def test_files_that_were_written_since_may_be_meant(tmp_path):
    _metadata(make_model(tmp_path), saved_s=1_700_000_000)
    _overwrite(tmp_path / WEIGHTS, EMBEDDING, b"\x3d")
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text() + "\n")
    report = inspect_model(tmp_path, is_deep=True)
    assert report.ok and [finding.code for finding in report.findings] == ["CHANGED_FILE", "CHANGED_FILE", "CHECKSUMS"]
    assert "config.json" in report.findings[1].message and "tokenizer" not in report.findings[1].message


@pytest.mark.parametrize("text", ["", "c\nnot a hash\n1\n", "c\n" + "0" * 64 + "\nnow\n", "\xff", "c\n" + "0" * 64])
def test_metadata_that_says_nothing(tmp_path, text):
    folder = make_model(tmp_path) / ".cache" / "huggingface" / "download"
    folder.mkdir(parents=True)
    (folder / f"{WEIGHTS}.metadata").write_text(text)
    assert inspect_model(tmp_path, is_deep=True).ok


@pytest.mark.parametrize("is_shared", [False, True])
def test_blobs_of_a_hub_cache(tmp_path, is_shared):
    """Links go to `blobs/ETAG`, which may be a link into a store of all repositories."""
    snapshot = make_cached(tmp_path) / "snapshots" / ("a" * 40)
    for path in list(snapshot.iterdir()):
        raw = path.read_bytes()
        name = hashlib.sha256(raw).hexdigest() if path.suffix == ".safetensors" else hashlib.sha1(raw).hexdigest()
        blob = path.resolve().rename(path.resolve().parent / name)
        path.unlink()
        path.symlink_to(f"../../blobs/{name}")
        if is_shared and path.name == WEIGHTS:
            store = tmp_path / "blobs" / "ab"
            store.mkdir(parents=True)
            blob.rename(store / "another-hash")
            blob.symlink_to(store / "another-hash")
    assert _deep(snapshot)["INFO", "CHECKSUMS"].message.startswith("1 of 1")
    _overwrite((snapshot / WEIGHTS).resolve(), EMBEDDING, b"\x3d")
    assert ("FAIL", "CHECKSUM_MISMATCH") in _deep(snapshot)
    # The other blobs have a hash of the wrong kind here: said, and no more than that.
    assert "tokenizer.json" in _deep(snapshot)["WARN", "CHANGED_FILE"].message


def test_right_checksum_and_nan_is_the_publishers(tmp_path):
    _overwrite(make_model(tmp_path) / WEIGHTS, EMBEDDING, b"\xc0\x7f")
    assert "publisher" in _deep(_metadata(tmp_path))["FAIL", "NOT_FINITE"].hint


def test_progress_reaches_the_size_of_all_files(tmp_path):
    make_model(tmp_path, shards=3)
    seen = []
    inspect_model(tmp_path, is_deep=True, on_progress=seen.append)
    size = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert seen[-1].read_bytes == seen[-1].total_bytes == size


def test_an_interrupt_ends_the_reading(tmp_path, monkeypatch):
    monkeypatch.setattr(judge_bytes_module, "_REPORT_EVERY_S", 0.0)
    monkeypatch.setattr(scan, "_BLOCK_BYTES", 8)  # a file takes long enough to be interrupted
    make_model(tmp_path, tensors={**TENSORS, HEAD: ("BF16", [8, 2**18])})
    seen = []

    def counted(path, header, checksum, on_read):
        return scan_weight_file(path, header, checksum, lambda num_bytes: (seen.append(num_bytes), on_read(num_bytes)))

    def interrupt(progress):
        raise KeyboardInterrupt

    monkeypatch.setattr(judge_bytes_module, "scan_weight_file", counted)
    with pytest.raises(KeyboardInterrupt):
        inspect_model(tmp_path, is_deep=True, on_progress=interrupt)
    assert sum(seen) < 2**21


def test_a_file_that_shrinks_meanwhile(tmp_path):
    path = make_model(tmp_path) / WEIGHTS
    header = read_header(path)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(HubError, match="shorter while it was read"):
        scan_weight_file(path, header, None, lambda num_bytes: None)


def test_nothing_is_run(tmp_path):
    plant_canaries(make_model(tmp_path / "m", auto_map={"AutoModel": "modeling_canary.X"}), tmp_path / "executed")
    assert not inspect_model(tmp_path / "m", is_deep=True).ok
    assert inspect_model(tmp_path / "m", is_deep=True, trust_remote_code=True).ok
    assert not (tmp_path / "executed").exists()
