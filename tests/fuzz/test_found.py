"""Bugs that damaged input has revealed, each as small a case as possible."""

import io
import json
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
import torch

from coterie.config.overrides import parse_override
from coterie.config.toml import read_toml
from coterie.data.decoding.decode import count_channels, decode
from coterie.data.sources.open import open_source
from coterie.errors import BadConfig, BadImage, UserError
from coterie.evaluation.model_selection import snapshot_records
from coterie.exporting.backbone_file import load_backbone, save_backbone
from coterie.models.backbone import BackboneConfig, build_backbone
from coterie.models.weights_file import read_weights
from coterie.training.run_folder import read_log, read_records
from tests.data.pictures import encoded, photo


def test_a_tar_member_of_absurd_size(tmp_path: Path) -> None:
    member = tarfile.TarInfo("1.jpg")
    member.size = 2**63
    (tmp_path / "x.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(UserError, match="not a complete tar archive"):
        open_source(str(tmp_path / "x.tar"))


def test_a_table_whose_footer_states_too_few_rows(tmp_path: Path) -> None:
    path, rows = tmp_path / "x.parquet", 50
    pq.write_table(pa.table({"image": [encoded(photo())] * rows}), path, store_schema=False)
    data = path.read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    place = data.index(bytes([0x16, 2 * rows]), footer)  # a varint in zigzag: FileMetaData.num_rows comes first
    path.write_bytes(data[: place + 1] + bytes([2 * 27]) + data[place + 2 :])
    with pytest.raises(UserError, match="its footer says 27 rows, but it has 50"):
        open_source(str(path))


@pytest.mark.parametrize("text", ["x = " + "[" * 5000, "x = " + "9" * 5000, "x = " + "{a=" * 500])
def test_settings_without_end(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(BadConfig, match="is not TOML"):
        read_toml(tmp_path / "config.toml")
    assert parse_override(text.replace(" ", ""))[1] == text.removeprefix(
        "x = "
    )  # a bare word, which is refused where it is used


def test_a_damaged_log_loses_only_the_damaged_lines(tmp_path: Path) -> None:
    intact = json.dumps(
        {"step": 3, "epoch": 1, "label_free": {"effective_rank": 2.0}, "snapshot": "snapshots/3.safetensors"}
    )
    outside = json.dumps({"step": 4, "epoch": 1, "label_free": {"effective_rank": 2.0}, "snapshot": "../../secret"})
    odd = [
        '{"step": 5, "label_free": {}}',
        '{"step": 6, "epoch": 1, "label_free": 3}',
        "3",
        "[" * 100_000,
        "\ufffd{",
        '{"epoch": 3}',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join([outside, *odd, intact]) + '\n{"step": 9, "lo')
    (tmp_path / "metrics.jsonl").write_bytes((tmp_path / "metrics.jsonl").read_bytes() + b"\xff")
    assert [each.step for each in snapshot_records(read_log(tmp_path))] == [3]
    assert "damaged" in read_records(tmp_path).remarks[0]


def test_weights_that_need_more_memory_than_the_size_of_their_file(tmp_path: Path) -> None:
    path, plain, bomb = tmp_path / "weights.pt", io.BytesIO(), io.BytesIO()
    torch.save({"conv1.weight": torch.zeros(2**20)}, plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    path.write_bytes(bomb.getvalue())
    with pytest.raises(UserError, match="damaged or compressed"):
        read_weights(path)
    for tensor in (
        torch.zeros(1).expand(10**6, 10**6),
        torch.zeros(3, device="meta"),
        torch.eye(3).to_sparse(),
    ):
        torch.save({"conv1.weight": tensor}, path)
        with pytest.raises(UserError, match="cannot be read as weights"):
            read_weights(path)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("backbone.name", 3, "another version"),
        ("backbone.channels", "3", "another version"),
        ("backbone.weights", "/etc/passwd", "another version"),
        ("image_size", None, "another version"),
        ("mean", [0.5], "another version"),
        ("value_range", [1, 0], "another version"),
        ("value_range", [0], "another version"),
        ("value_range", "01", "another version"),
        ("backbone.width", 64.0, "fewer than resnet18 has"),
        ("backbone.name", "no_such_network", "there is no backbone"),
    ],
)
def test_an_absurd_description(path: str, value: object, reason: str, tmp_path: Path) -> None:
    config, file = BackboneConfig("resnet18", width=0.125, stem="small"), tmp_path / "model.safetensors"
    save_backbone(file, build_backbone(config, 16), config, 16, (0.5,) * 3, (0.2,) * 3)
    load_backbone(file)
    whole = file.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    description = json.loads(header["__metadata__"]["coterie"])
    *parents, name = path.split(".")
    (description[parents[0]] if parents else description)[name] = value
    header["__metadata__"]["coterie"] = json.dumps(description)
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + length :])
    with pytest.raises(UserError, match=reason):
        load_backbone(file)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("pages", [2, 150])  # tifffile itself detects some cycles of fewer than a hundred pages
@pytest.mark.parametrize("wide", [False, True])
def test_a_tiff_file_whose_pages_form_a_cycle(pages: int, wide: bool) -> None:
    file, (tags, size, pointer) = io.BytesIO(), (("<Q", 20, "<Q") if wide else ("<H", 12, "<I"))
    with tifffile.TiffWriter(file, bigtiff=wide) as writer:
        for _ in range(pages):
            writer.write(np.zeros((2, 2), np.uint8), photometric="minisblack", metadata=None)
    file.seek(0)
    with tifffile.TiffFile(file) as read:
        first, last = read.pages[0].offset, read.pages[pages - 1].offset
    data = bytearray(file.getvalue())
    assert decode(bytes(data), 1).shape == (2, 2, 1)
    place = last + struct.calcsize(tags) + size * struct.unpack_from(tags, data, last)[0]
    assert struct.unpack_from(pointer, data, place) == (0,)
    struct.pack_into(pointer, data, place, first)
    for read_it in (lambda each: decode(each, 1), count_channels):
        with pytest.raises(BadImage, match="form a circle"):
            read_it(bytes(data))


def test_an_arrow_file_whose_columns_have_no_names(tmp_path: Path) -> None:
    table, path = pa.table({"image": [b"x"]}), tmp_path / "x.arrow"
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table)
    path.write_bytes(path.read_bytes().replace(b"image", b"\x80mage"))
    with pytest.raises(UserError, match="not a readable Arrow file"):
        open_source(str(path))
