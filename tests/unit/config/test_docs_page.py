"""docs/configuration.md is what the configuration says of itself."""

from __future__ import annotations

from headway.config import KINDS, Config, factories
from scripts import configuration_page


def test_the_page_is_current():
    page = configuration_page.PAGE.read_text(encoding="utf-8")
    assert page == configuration_page.render(), "run: python -m scripts.configuration_page"


def test_every_section_and_name_is_on_it():
    page = configuration_page.render()
    for name in Config.model_fields:
        assert f"`{name}" in page or f"`[{name}" in page
    for kind in KINDS:
        for name in factories(kind):
            assert f"### `{name}`" in page
