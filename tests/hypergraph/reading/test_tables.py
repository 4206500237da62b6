import datetime
import gzip
import itertools
import json
import re
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperlearn_dask.config import TableSpec
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.hypergraph.reading import cells, tables
from hyperlearn_dask.hypergraph.reading.tables import BLOCK, plan, read_part, read_table

BLOCKS = [1, 7, 64, BLOCK]


def table(tmp_path, name, content):
    """Write a table; its format is that of its name."""
    path = tmp_path / name
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return TableSpec(path, name.split(".")[1], name.endswith(".gz"))


def parquet(tmp_path, columns, rows=2):
    path = tmp_path / "t.parquet"
    pa.parquet.write_table(pa.table(columns), path, row_group_size=rows)
    return TableSpec(path, "parquet")


def ids(spec, column, block=BLOCK):
    found = [cells.ids(batch, column).to_pylist() for batch in read_table(spec, [column], block=block)]
    return list(chain(*found))


def numbered(batches):
    """(row of the table, id) of every record."""
    return [
        (batch.rows[k], id) for batch in batches for k, id in enumerate(cells.ids(batch, "id").to_pylist())
    ]


def numbers(spec, column, block=BLOCK):
    return np.concatenate(
        [cells.numbers(b, column) for b in read_table(spec, [column], block=block)]
    ).tolist()


CSV = 'id,name,x\r\n007,"Gogh, Vincent",1\r\n\r\nNA,"a ""b""\nc",-2.5e3\r\n x ,é, 3 \r\n'
TSV = CSV.replace(",", "\t").replace("Gogh\t", "Gogh,")
JSON = '{"id": "007", "x": 1}\n\n{"x": -2500.0, "id": "NA"}\n{"id": " x ", "x": "3"}'


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", CSV),
        ("t.csv.gz", CSV),
        ("t.csv", "\ufeff" + CSV),
        ("t.csv", CSV.replace("\r\n", "\n")),
        ("t.tsv", TSV),
        ("t.tsv.gz", TSV),
        ("t.jsonl", JSON),
        ("t.jsonl.gz", JSON),
    ],
)
def test_text_stays_as_it_is(tmp_path, name, content, block):
    spec = table(tmp_path, name, content)
    assert ids(spec, "id", block) == ["007", "NA", " x "]
    assert numbers(spec, "x", block) == [1, -2500, 3]
    if "json" not in name:
        assert [x.replace("\r", "") for x in ids(spec, "name", block)] == ["Gogh, Vincent", 'a "b"\nc', "é"]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("name", ["t.tns", "t.tns.gz"])
def test_tns(tmp_path, name, block):
    spec = table(tmp_path, name, "# a comment\n1 2 1.5\n  10\t3   2\n\n1 1 -1 \n")
    assert ids(spec, "1", block) == ["1", "10", "1"]
    assert ids(spec, "2", block) == ["2", "3", "1"]
    assert numbers(spec, "value", block) == [1.5, 2, -1]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7, 10**17], ["7", "100000000000000000"]),
        ([1762.0, 1.5], ["1762", "1.5"]),
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        ([True, False], ["true", "false"]),
        ([datetime.date(1889, 6, 1), datetime.date(2000, 1, 1)], ["1889-06-01", "2000-01-01"]),
        (pa.array([0, 1], pa.timestamp("s")), ["1970-01-01T00:00:00", "1970-01-01T00:00:01"]),
        (pa.array([b"x", b"y"]), ["x", "y"]),
        (pa.array(["x", "y"], pa.large_string()), ["x", "y"]),
    ],
)
def test_ids_of_other_types_become_text(tmp_path, values, expected):
    assert ids(parquet(tmp_path, {"id": values}), "id") == expected


def test_json_ids_become_text(tmp_path):
    records = [{"id": value} for value in (7, 1762.0, 1.5, True, 10**30, "ä")]
    spec = table(tmp_path, "t.jsonl", "\n".join(map(json.dumps, records)))
    assert ids(spec, "id") == ["7", "1762", "1.5", "true", str(10**30), "ä"]


@pytest.mark.parametrize("block", BLOCKS)
def test_cells_with_several_ids(tmp_path, block):
    expected = ([2, 0, 1], ["a", "b", "c"])
    written = [
        (table(tmp_path, "t.csv", 'i,s\n1,a; b ;\n2,\n3,"c"\n'), ";"),
        (table(tmp_path, "t.jsonl", '{"s": ["a", "b"]}\n{"s": []}\n{"s": "c"}\n'), None),
        (parquet(tmp_path, {"s": [["a", "b"], None, ["", "c"]]}), None),
    ]
    for spec, separator in written:
        found = [cells.id_lists(batch, "s", separator) for batch in read_table(spec, ["s"], block=block)]
        assert np.concatenate([counts for counts, _ in found]).tolist() == expected[0]
        assert list(chain(*(several.to_pylist() for _, several in found))) == expected[1]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(st.sampled_from('ab",\n;é '), max_size=5), min_size=1, max_size=12), st.integers(1, 40)
)
def test_any_block_size_reads_the_same(tmp_path_factory, texts, block):
    # A value needs quotes only where it has special characters; "x" makes sure that none is empty.
    values = ["x" + text if set(text) & set('",\n') else text + "x" for text in texts]
    written = ['"' + v.replace('"', '""') + '"' if set(v) & set('",\n') else v for v in values]
    spec = table(tmp_path_factory.mktemp("t"), "t.csv", "a,b\n" + "".join(f"{v},{v}\n" for v in written))
    assert ids(spec, "a", block) == ids(spec, "b", block) == values


def test_a_line_break_in_quotes_stays_whole_wherever_a_piece_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_PIECE", 64)
    for shift in range(8):
        rows = [f'"first\r\nsecond{"x" * (n % 7)}",{n}' for n in range(60)]
        spec = table(tmp_path, f"t{shift}.csv", "\r\n".join(["name,n" + "n" * shift, *rows, ""]))
        assert ids(spec, "name") == [f"first\r\nsecond{'x' * (n % 7)}" for n in range(60)]


def test_parts_are_read_in_any_order(tmp_path):
    spec = table(tmp_path, "t.csv", "id\n" + "".join(f"{n}\n" for n in range(100)))
    parts = plan(spec, ["id"], block=20)
    assert len(parts) > 5
    found = numbered(chain.from_iterable(map(read_part, reversed(parts))))
    assert sorted(found) == [(n + 2, str(n)) for n in range(100)]


def test_comments_can_be_all_of_a_block(tmp_path):
    spec = table(tmp_path, "t.tns", "1 2 1.0\n" + "# nothing\n" * 4 + "2 2 1.0\n" + "# no line end")
    assert numbers(spec, "value", block=9) == numbers(spec, "value") == [1.0, 1.0]


def test_steps_of_planning_become_parts_of_a_block(tmp_path, monkeypatch):
    rows = [f'{n},"a\nb"\n' + "\n" * (60 * (n % 10 == 4)) for n in range(50)]
    spec = table(tmp_path, "t.csv", "id,x\n" + "".join(rows))
    expected = numbered(read_table(spec, ["id"]))
    monkeypatch.setattr(tables, "_STEP", 8)
    parts = plan(spec, ["id"], block=200)
    data = spec.path.read_bytes()
    for before, part in itertools.pairwise(parts):
        assert before.stop <= part.start and not data[before.stop : part.start].strip()
    for part in parts:
        assert part.stop - part.start <= 200
        text = re.sub(rb'"[^"]*"', b"", data[part.start : part.stop])
        assert part.records == text.count(b"\n")
    assert len(parts) < len(data) / 60  # not one for each step
    assert any(before.stop < part.start for before, part in itertools.pairwise(parts))
    assert numbered(chain.from_iterable(map(read_part, parts))) == expected


LONG = "".join(f"{n},1\n" for n in range(50))

WRONG = {
    "empty file": ("t.csv", "", None, "has no rows"),
    "header only": ("t.csv", "id,x\n", None, "has no rows"),
    "blank lines only": ("t.csv", "id,x\n\n\n", None, "has no rows"),
    "empty gzip": ("t.csv.gz", "id,x\n", None, "has no rows"),
    "empty json": ("t.jsonl", "\n", None, "has no rows"),
    "empty tns": ("t.tns", "# nothing\n", None, "has no rows"),
    "no column": ("t.csv", "idd,x\n1,1\n", None, "column 'id': no such column, did you mean 'idd'"),
    "semicolons": (
        "t.csv",
        "id;x\n1;1\n",
        None,
        "(expected id;x); its columns are separated by ';', those of csv",
    ),
    "no column in json": ("t.jsonl", '{"x": 1}', None, "column 'id': no such column"),
    "two columns": ("t.csv", "id,id,x\n1,1,1\n", None, "several columns of this name"),
    "empty id": ("t.csv", f"id,x\n{LONG},1\n", 52, "column 'id': is empty; expected an id"),
    "empty id after blanks": ("t.csv", f"id,x\n\n{LONG}\n\n,1\n", 55, "column 'id': is empty"),
    "empty id after quotes": (
        "t.csv",
        f'id,x\n"a\nb",1\n{LONG}"c\n\nd",1\n\n,1\n',
        55,
        "column 'id': is empty",
    ),
    "no number": ("t.csv", f"id,x\n{LONG}a,1x\n", 52, "column 'x': expected a number, got '1x'"),
    "nan": ("t.csv", f"id,x\n{LONG}a,nan\n", 52, "column 'x': expected a finite number, got nan"),
    "infinite": ("t.csv", f"id,x\n{LONG}a,-1e999\n", 52, "column 'x': expected a finite number, got -inf"),
    "no value": ("t.csv", f"id,x\n{LONG}a,\n", 52, "column 'x': is empty; expected a number"),
    "short row": ("t.csv", f"id,x\n{LONG}a\n", 52, "expected 2 values, got 1"),
    "long row": ("t.csv", f"id,x\n{LONG}\na,1,2\n", 53, "expected 2 values, got 3"),
    "open quote": ("t.csv", f'id,x\n{LONG}"a,1\nb,2\n', 52, "a quote opens here that is never closed"),
    "text in quotes": ("t.csv", f'id,x\n{LONG}"a" b,1\n', 52, "a value begins with a quote and goes on"),
    "quotes of text": ("t.tsv", 'id\tx\nb\t6"\n"a\t1\nb\t2\n"c" d\t3\n', 3, "a value begins with a quote"),
    "latin-1": (
        "t.csv",
        f"id,x\n{LONG}".encode() + b"caf\xe9,1\n",
        52,
        "column 'id': not UTF-8 text (byte 0xe9)",
    ),
    "latin-1 header": ("t.csv", b"id,x,\xe9\n1,1,1\n", 1, "not UTF-8 text (byte 0xe9)"),
    "utf-16": ("t.csv", "id,x\n1,1\n".encode("utf-16"), 1, "not UTF-8 text"),
    "old line ends": ("t.csv", "id,x\r1,1\r", None, "carriage return"),
    "no gzip": ("t.csv", None, None, "no gzip file"),
    "json syntax": ("t.jsonl", '{"id": 1, "x": 1}\n\n' * 20 + '{"id": 1,\n', 41, "is no JSON"),
    "json list": ("t.jsonl", '{"id": 1, "x": 1}\n[1]\n', 2, "expected a JSON object"),
    "json nested": (
        "t.jsonl",
        '{"id": 1, "x": 1}\n{"id": {}, "x": 1}\n',
        2,
        "column 'id': expected a text, a number",
    ),
    "json without id": ("t.jsonl", '{"id": 1, "x": 1}\n{"x": 1}\n', 2, "column 'id': is empty"),
    "json nan": ("t.jsonl", '{"id": 1, "x": 1}\n{"id": 1, "x": NaN}\n', 2, "column 'x': is empty"),
    "json nan for an id": ("t.jsonl", '{"id": 1, "x": 1}\n{"id": NaN, "x": 1}\n', 2, "column 'id': is empty"),
    "half a character": (
        "t.jsonl",
        '{"id": 1, "x": 1}\n{"id": "\\ud83d", "x": 1}\n',
        2,
        "column 'id': expected Unicode text",
    ),
    "json true": ("t.jsonl", '{"id": 1, "x": true}\n', 1, "column 'x': expected a number, got 'true'"),
    "tns index 0": ("t.tns", "# c\n" + "1 1 1\n" * 30 + "0 1 1\n", 32, "expected an index from 1, got '0'"),
    "tns fraction": ("t.tns", "1 1 1\n1.5 1 1\n", 2, "expected an index from 1, got '1.5'"),
    "tns ragged": ("t.tns", "1 1 1\n" * 30 + "\n1 1\n", 32, "expected 3 values, got 2"),
}


@pytest.mark.parametrize("block", [30, BLOCK])
@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(tmp_path, case, block):
    name, content, row, message = WRONG[case]
    if case == "no gzip":
        spec = TableSpec(table(tmp_path, "t.csv", "id,x\n1,1\n").path, "csv", gzipped=True)
    else:
        spec = table(tmp_path, name, content)
    id, x = ("1", "value") if name.endswith("tns") else ("id", "x")
    with pytest.raises(InputError) as caught:
        for batch in read_table(spec, [id, x], block=block):
            cells.ids(batch, id)
            cells.numbers(batch, x)
    assert message in str(caught.value)
    assert caught.value.row == row
    assert str(spec.path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [5, 15, -5])
def test_a_truncated_gzip_is_found(tmp_path, keep):
    spec = table(tmp_path, "t.csv.gz", "id,x\n" + LONG)
    spec.path.write_bytes(spec.path.read_bytes()[:keep])
    with pytest.raises(InputError, match="the gzip file is truncated"):
        ids(spec, "id")


def test_files_that_cannot_be_read(tmp_path):
    for format in ("csv", "jsonl", "parquet", "tns"):
        with pytest.raises(InputError, match="no such file"):
            ids(TableSpec(tmp_path / "none", format), "1")
    broken = table(tmp_path, "t.parquet", "no parquet at all")
    with pytest.raises(InputError, match="is no readable Parquet file"):
        ids(broken, "id")


def test_parquet_names_rows_in_later_groups(tmp_path):
    columns = {"id": ["a"] * 5 + [None], "x": [1.0] * 3 + [float("inf"), 1, 1], "s": [["a"]] * 6}
    spec = parquet(tmp_path, columns)
    with pytest.raises(InputError, match=r"row 6, column 'id': is empty"):
        ids(spec, "id")
    with pytest.raises(InputError, match=r"row 4, column 'x': expected a finite number, got inf"):
        numbers(spec, "x")
    with pytest.raises(InputError, match=r"column 's': expected numbers, got list"):
        numbers(spec, "s")
    with pytest.raises(InputError, match=r"column 's': expected one id, got a list"):
        ids(spec, "s")
    with pytest.raises(InputError, match=r"column 'y': no such column"):
        ids(spec, "y")


def test_missing_numbers_can_be_nan(tmp_path):
    for spec in (table(tmp_path, "t.csv", "i,x\n1,\n2,3\n"), parquet(tmp_path, {"x": [float("nan"), 3.0]})):
        (batch,) = read_table(spec, ["x"])
        np.testing.assert_array_equal(cells.numbers(batch, "x", missing="nan"), [np.nan, 3])
