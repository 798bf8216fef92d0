"""What a user may set of watching a run."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from bertsmith.configuration import Configuration, argument


class WatchSettings(Configuration):
    """``bertsmith watch``: the curves of a run on a page of this machine."""

    run: Path = argument("A run's directory, of pretrain or finetune: one that goes on, was stopped or is finished.")
    port: int = Field(
        0, ge=0, le=65_535, description="The page's port on 127.0.0.1; 0 takes a free one. Nobody else can reach it."
    )
    open: bool = Field(False, description="Open the page in a browser.")
