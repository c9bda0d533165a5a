"""The serve command: a model behind an HTTP address."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from stacked_ram.runtime.errors import UserError
from stacked_ram.serving.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Serve:
    """Answer photos over HTTP: POST /look gives class, probabilities and scan path as JSON.

    Needs pip install -r requirements-serve.txt. Photos that come together are looked at together.
    """

    run: Annotated[Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run folder or file of weights."""
    host: str = "127.0.0.1"
    """Address to listen on; the default is reachable from this machine alone. 0.0.0.0: from any."""
    port: int = 8000
    """Port to listen on; 0: any that is free."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes a GPU where there is one."""
    fast: bool = False
    """Look 2 to 3 times as fast on a CPU, by OpenVINO (pip install -r requirements-fast.txt)."""
    settings: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=Settings)


def serve(options: Serve) -> None:
    """Serve until Ctrl-C or SIGTERM. Raises UserError."""
    try:
        # late: `--help` answers without torch
        from stacked_ram.serving import server
    except ImportError as error:
        raise UserError(
            f"serve: needs the package {error.name}; pip install -r requirements-serve.txt"
        ) from None
    server.serve(
        options.run,
        options.settings,
        host=options.host,
        port=options.port,
        device=options.device,
        fast=options.fast,
    )
