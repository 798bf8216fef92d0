from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from bertsmith.config import PrepareSettings, VocabularySettings
from bertsmith.errors import InputError
from bertsmith.locations import Url, as_location


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/b.txt", Path("a/b.txt")),
        ("/x//y", Path("/x/y")),
        ("C:/x", Path("C:/x")),
        ("file:///x/y.txt", Path("/x/y.txt")),
        ("local:///x", Path("/x")),
        ("s3://bucket//a/", Url("s3://bucket//a/")),
        ("hf://datasets/someone/texts@main/*.txt", Url("hf://datasets/someone/texts@main/*.txt")),
        ("zip://a.txt::https://host/b.zip", Url("zip://a.txt::https://host/b.zip")),
    ],
)
def test_what_is_a_url(text: str, expected: Path | Url) -> None:
    assert as_location(text) == expected


def test_parts_of_a_url() -> None:
    url = Url("s3://bucket/folder/")
    assert str(url / "a.txt.gz") == "s3://bucket/folder/a.txt.gz"
    assert (url / "a.txt.gz").name == "a.txt.gz"


def test_settings_keep_urls_and_paths_as_they_are(tmp_path: Path) -> None:
    settings = VocabularySettings.parse({"corpus": ["s3://b//x", Path("y//z"), Url("gs://c")], "output": "o"})
    assert settings.corpus == [Url("s3://b//x"), Path("y/z"), Url("gs://c")]
    settings.write(tmp_path / "config.yaml")
    written = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert written["corpus"] == ["s3://b//x", "y/z", "gs://c"]
    assert VocabularySettings.from_yaml(tmp_path / "config.yaml") == settings


def test_an_address_needs_its_engine() -> None:
    with pytest.raises(InputError, match="needs engine ray"):
        PrepareSettings.parse({"corpus": ["x"], "vocab": "v", "output": "o", "address": "host:1"})
