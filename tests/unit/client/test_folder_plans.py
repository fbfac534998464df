"""What a folder or a manifest becomes: lines, ids, names of results; and what is refused before anything is sent."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.folder.errors import FolderError
from client.folder.manifests import read_manifest
from client.folder.names import choose_custom_ids, choose_stems, name_files
from client.folder.plan import FolderOptions, Plan, make_plan
from common.domain.batch import MOST_CUSTOM_ID
from tests.unit.client.batch_server import make_folder


def plan_of(tmp_path: Path, **options: Any) -> Plan:
    return make_plan(FolderOptions(out=tmp_path / "out", server="http://darkroom.test", **options))


def ids(plan: Plan) -> list[str]:
    return [entry.custom_id for entry in plan.entries]


def test_pictures_are_found_by_their_endings_sorted_with_their_subfolders(tmp_path: Path) -> None:
    names = ("b.PNG", "a.jpeg", "sub/c.webp", "sub/d.txt", ".hidden.png", ".hidden/e.png", "out/f.png")
    folder = make_folder(tmp_path, dict.fromkeys(names, b""))
    plan = plan_of(tmp_path, folder=folder)
    assert (ids(plan), plan.others) == (["a.jpeg", "b.PNG", "sub/c.webp"], 1)
    assert [entry.stem for entry in plan.entries] == ["a", "b", "sub/c"]
    assert ids(plan_of(tmp_path, folder=folder, recursive=False)) == ["a.jpeg", "b.PNG"]


def test_results_of_pictures_that_differ_in_their_ending_alone_keep_it() -> None:
    assert choose_stems(["a.png", "a.jpg", "A.webp", "b.png", "sub/a.png"]) == [
        "a.png",
        "a.jpg",
        "A.webp",
        "b",
        "sub/a",
    ]
    assert choose_stems(["x", "X", "x~2"]) == ["x", "X~2", "x~2~2"]


def test_no_picture_of_one_result_has_the_name_of_another_results(tmp_path: Path) -> None:
    assert choose_stems(["cat", "cat-0"], [1, 1]) == ["cat", "cat-0"]
    assert choose_stems(["cat", "CAT-0", "cat-2"], [2, 1, 1]) == ["cat", "CAT-0~2", "cat-2"]
    assert choose_stems(["cat-1", "cat"], [1, 2]) == ["cat-1", "cat~2"]
    manifest = tmp_path / "work.jsonl"
    manifest.write_text('{"custom_id": "cat"}\n{"custom_id": "cat-0", "num_images": 1}\n', encoding="utf-8")
    plan = plan_of(tmp_path, manifest=manifest, defaults={"num_images": 2})
    assert [entry.stem for entry in plan.entries] == ["cat", "cat-0~2"]


@pytest.mark.parametrize(
    ("custom_id", "stem"),
    [
        ("../../etc/passwd", "_./_./etc/passwd".replace("_.", "_")),
        ("/abs/olute.png", "abs/olute"),
        ("C:\\pictures\\a.png", "C_/pictures/a"),
        (".darkroom-batch/plan", "_darkroom-batch/plan"),
        ("a\x00b\nc", "a_b_c"),
        ("ends with. ", "ends with"),
        ("///", "_"),
    ],
)
def test_an_id_never_leads_out_of_the_folder(custom_id: str, stem: str) -> None:
    assert choose_stems([custom_id]) == [stem]


@given(st.lists(st.tuples(st.sampled_from(["a", "A-0", "a-0-1", "a-1", "b"]), st.integers(1, 16)), max_size=12))
def test_whatever_the_numbers_of_pictures_no_two_files_have_one_name(wanted: list[tuple[str, int]]) -> None:
    counts = [count for _, count in wanted]
    stems = choose_stems([name for name, _ in wanted], counts)
    files = [name for stem, count in zip(stems, counts, strict=True) for name in name_files(stem, [".png"] * count)]
    assert len({name.casefold() for name in files}) == sum(counts)


@given(st.lists(st.text(max_size=400), max_size=20))
def test_whatever_the_names_ids_and_stems_are_unique_and_fit(names: list[str]) -> None:
    found = choose_custom_ids(names)
    assert len(set(found)) == len(names)
    assert all(len(one) <= MOST_CUSTOM_ID for one in found)
    stems = choose_stems(found)
    assert len({one.casefold() for one in stems}) == len(names)
    for stem in stems:
        parts = Path(stem).parts
        assert parts
        assert not Path(stem).is_absolute()
        assert not {"..", "/", ""} & set(parts)
        assert all(len(part.encode()) <= 255 - len(".jpg.part") for part in parts)


def test_several_pictures_of_one_result_are_numbered() -> None:
    assert name_files("a", [".png"]) == ["a.png"]
    assert name_files("a", [".png", ".jpg"]) == ["a-0.png", "a-1.jpg"]


def test_a_mask_has_the_relative_name_of_its_picture_whatever_its_ending(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "in", dict.fromkeys(("a.jpg", "sub/b.png"), b""))
    masks = make_folder(tmp_path / "masks", dict.fromkeys(("a.png", "a.jpg", "sub/b.webp", "spare.png"), b""))
    plan = plan_of(tmp_path, folder=folder, mask_dir=masks)
    assert [entry.mask for entry in plan.entries] == [
        {"file": str((masks / name).resolve())} for name in ("a.jpg", "sub/b.webp")
    ]


def test_a_picture_without_its_mask_is_refused_by_name(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "in", dict.fromkeys(("a.jpg", "b.png"), b""))
    masks = make_folder(tmp_path / "masks", {"a.png": b""})
    with pytest.raises(FolderError, match=r"1 of 2 pictures have no mask in .*: b\.png"):
        plan_of(tmp_path, folder=folder, mask_dir=masks)


def test_a_folder_without_pictures_and_one_with_too_many_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FolderError, match="no pictures"):
        plan_of(tmp_path, folder=make_folder(tmp_path / "in", {"notes.txt": b""}))
    monkeypatch.setattr("client.folder.plan.MOST_LINES", 2)
    folder = make_folder(tmp_path / "many", {f"{number}.png": b"" for number in range(3)})
    with pytest.raises(FolderError, match="3 pictures are more than the 2 of one batch: split them"):
        plan_of(tmp_path, folder=folder)


def test_a_manifest_names_files_beside_it_or_in_the_folder_and_what_the_api_takes(tmp_path: Path) -> None:
    make_folder(tmp_path, dict.fromkeys(("in/a.png", "lists/b.png", "lists/mask.png"), b""))
    lines = [
        {"image": "a.png", "prompt": "snow"},
        {"image": "b.png", "mask": {"file": "mask.png"}, "custom_id": "mine", "error": {"code": "old"}},
        {"image": {"upload": "upl_1"}},
        {"image": "https://example.com/c.png"},
        {"prompt": "nothing to start from"},
        {"image": "a.png", "prompt": "rain"},
    ]
    manifest = tmp_path / "lists" / "work.jsonl"
    manifest.write_text("\n\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    plan = plan_of(tmp_path, manifest=manifest, folder=tmp_path / "in")
    assert ids(plan) == ["a.png", "mine", "2", "3", "4", "a.png#2"]
    assert [entry.image for entry in plan.entries] == [
        {"file": str(tmp_path / "in" / "a.png")},
        {"file": str(tmp_path / "lists" / "b.png")},
        {"upload": "upl_1"},
        {"url": "https://example.com/c.png"},
        None,
        {"file": str(tmp_path / "in" / "a.png")},
    ]
    assert plan.entries[1].mask == {"file": str(tmp_path / "lists" / "mask.png")}
    assert [entry.fields for entry in plan.entries][:2] == [{"prompt": "snow"}, {}]
    assert plan.entries[0].as_line({str(tmp_path / "in" / "a.png"): "upl_9"}) == {
        "custom_id": "a.png",
        "prompt": "snow",
        "image": {"upload": "upl_9"},
    }


def test_a_mask_that_a_line_gives_as_null_takes_away_the_one_of_the_defaults(tmp_path: Path) -> None:
    manifest = tmp_path / "work.jsonl"
    manifest.write_text('{"image": {"upload": "upl_1"}, "mask": null}\n', encoding="utf-8")
    (entry,) = plan_of(tmp_path, manifest=manifest, defaults={"mask": {"upload": "upl_2"}}).entries
    assert entry.as_line({}) == {"custom_id": "0", "image": {"upload": "upl_1"}, "mask": None}


def test_cells_of_a_csv_become_the_values_of_their_fields(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a.png": b""})
    manifest = tmp_path / "work.csv"
    manifest.write_text(
        "﻿image,prompt,strength,seed,previews,tags,output,custom_id\n"
        'a.png,"snow, much of it",0.5,7,no,"[""x""]","{""format"": ""webp""}",\n'
        ",rain,,,,,,second\n",
        encoding="utf-8",
    )
    first, second = read_manifest(manifest, None)
    assert first == {
        "image": {"file": str(tmp_path / "a.png")},
        "prompt": "snow, much of it",
        "strength": 0.5,
        "seed": 7,
        "previews": False,
        "tags": ["x"],
        "output": {"format": "webp"},
    }
    assert second == {"prompt": "rain", "custom_id": "second"}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", '{"prompt": "x"}\n{"prompt"', "line 2 is not JSON"),
        ("a.jsonl", "[1]", "line 1 is no JSON object"),
        ("a.jsonl", '{"image": "missing.png"}', "line 1, image: there is no file missing.png"),
        ("a.jsonl", '{"image": 7}', "image must be the name of a file"),
        ("a.jsonl", '{"custom_id": "x"}\n{"custom_id": "x"}', "2 lines have the custom_id x"),
        ("a.jsonl", '{"custom_id": 7}', "custom_id is text and not empty, not 7"),
        ("a.jsonl", "\n", "no pictures"),
        ("a.csv", "prompt,seed\nx,seven\n", "line 2: seed must be a whole number, not 'seven'"),
        ("a.csv", "prompt,previews\nx,maybe\n", "previews must be true or false"),
        ("a.csv", "prompt,seed\nx,1,2\n", "line 2 has not as many cells as the header"),
        ("a.csv", "prompt,seed\nx\n", "line 2 has not as many cells as the header"),
    ],
)
def test_a_wrong_manifest_is_refused_with_its_line(tmp_path: Path, name: str, text: str, said: str) -> None:
    manifest = tmp_path / name
    manifest.write_text(text, encoding="utf-8")
    with pytest.raises(FolderError, match=said):
        plan_of(tmp_path, manifest=manifest)
