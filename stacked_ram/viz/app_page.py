"""The app's page: its parts and their events. Needs Gradio."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio

from stacked_ram.runs.checkpoint import LoadedRun
from stacked_ram.runtime.errors import UserError
from stacked_ram.viz.app_view import cached_run, location_of, watch

MOST_GLIMPSES = 16
KEPT = 300  # seconds after which an uploaded photo is deleted
CSS = """
.gradio-container { max-width: 1240px !important } footer { display: none !important }
#verdict { font-size: 1.15rem } #verdict h3 { margin: 0 }
/* small photos are enlarged, so that a place in them can be clicked */
#photo img { width: 100%; height: 100%; object-fit: contain; image-rendering: auto }
/* on a phone the answer stands first, once there is one */
@media (max-width: 700px) { #result:has(#picture img) { order: -1 } #examples { order: 2 } }
"""

# without Gradio's button that sends a picture elsewhere
SHOWN: dict[str, Any] = {"interactive": False, "buttons": ["download", "fullscreen"]}


# with the machine's fonts: Gradio's own would be fetched from the network
THEME = gradio.themes.Default(
    font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
)


def as_uploaded(payload: Any) -> str | None:
    """The path of an uploaded file, unopened: `app_view.check_upload` checks it first."""
    return None if payload is None else payload.path


def build_page(
    runs: dict[str, str],
    first: LoadedRun,
    examples: list[str],
    device: str,
    stop_at: float | None = None,
) -> Any:
    """The page: its parts and their events. runs: names and paths. device: for other runs.
    stop_at: the confidence to stop at in the beginning."""
    names = list(runs)
    glimpses = first.config.model.num_glimpses
    with gradio.Blocks(title="See what it saw", delete_cache=(60, KEPT)) as page:
        gradio.Markdown("## See what it saw\nDrop a photo, or choose an example below. Click on "
                        "the photo to choose where the model looks first.")  # fmt: skip
        place = gradio.State(None)
        with gradio.Row():
            with gradio.Column(scale=2, min_width=300):
                photo = gradio.Image(
                    label="photo", type="filepath", sources=["upload", "webcam", "clipboard"],
                    height=320, elem_id="photo",
                )  # fmt: skip
                photo.preprocess = as_uploaded  # type: ignore[method-assign]  # no option for it
                model = gradio.Dropdown(names, value=names[0], label="model", elem_id="model")
                count = gradio.Slider(
                    1, max(MOST_GLIMPSES, glimpses), value=glimpses, step=1, label="glimpses",
                    elem_id="glimpses",
                )  # fmt: skip
                several = first.metadata.multi_label
                confidence = gradio.Slider(
                    0.0 if several else 0.3, 1.0, value=stop_at or 1.0, step=0.01,
                    elem_id="threshold",
                    label=f"stop at this {'margin' if several else 'confidence'} (1: never)",
                )  # fmt: skip
                with gradio.Row():
                    again = gradio.Button("look again", variant="primary", elem_id="again")
                    free = gradio.Button("let the model choose", elem_id="free")
                chosen = gradio.Gallery(
                    [(path, Path(path).stem) for path in examples], label="examples", columns=5,
                    height="auto", allow_preview=False, visible=bool(examples),
                    elem_id="examples", interactive=False,
                )  # fmt: skip
            with gradio.Column(scale=4, min_width=320, elem_id="result"):
                verdict = gradio.Markdown("", elem_id="verdict")
                picture = gradio.Image(
                    label="scan path", show_label=False, elem_id="picture", **SHOWN
                )
                belief = gradio.Label(
                    num_top_classes=5, label="belief", show_heading=False, elem_id="belief"
                )
        strip = gradio.Image(label="patches, as the network gets them", elem_id="strip", **SHOWN)

        def look(path: str | None, name: str, steps: float, least: float, first: Any) -> Iterator:
            if not path:
                yield {verdict: "", picture: None, belief: None, strip: None}
                return
            yield {verdict: "reading the photo …", belief: None, strip: None}
            try:
                moments = watch(cached_run(runs[name], device), path, int(steps), least, first)
                for text, frame, probabilities, patches in moments:
                    yield {verdict: text, picture: frame, belief: probabilities, strip: patches}
            except UserError as error:
                reason = str(error).removeprefix(f"{path}: ")
                yield {verdict: f"✗ {reason}", picture: None}
                # it stays until it is closed
                raise gradio.Error(reason, duration=None, print_exception=False) from None

        def clicked(path: str | None, event: gradio.SelectData) -> Any:
            try:
                return location_of(path, event.index) if path else None
            except UserError:  # `look` reports what is wrong with the photo
                return None

        def example(event: gradio.SelectData) -> str:
            return examples[event.index]

        shown = [verdict, picture, belief, strip]
        asked = [photo, model, count, confidence, place]
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        how = quiet | {"trigger_mode": "always_last"}
        photo.change(lambda: None, None, place, **quiet).then(look, asked, shown, **how)
        photo.select(clicked, photo, place, **quiet).then(look, asked, shown, **how)
        chosen.select(example, None, photo, **quiet)
        free.click(lambda: None, None, place, **quiet).then(look, asked, shown, **how)
        for touched in (again.click, model.change, count.release, confidence.release):
            touched(look, asked, shown, **how)
    return page
