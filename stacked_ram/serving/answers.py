"""What a client sends and gets, as the OpenAPI page shows it, and the JSON of an answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from stacked_ram.evaluation.predict import Row


class Class(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    name: str = Field(alias="class")
    probability: float


class Glimpse(BaseModel):
    location: tuple[float, float] = Field(
        description="(x, y), each from -1 to 1; (-1, -1) is the top left corner"
    )
    boxes: list[tuple[float, float, float, float]] = Field(
        description="left, top, right, bottom of each patch, in pixels of the sent photo (turned"
        " upright, if its EXIF says so); they may reach outside it"
    )


class Look(BaseModel):
    """What the model says of a photo."""

    model_config = ConfigDict(populate_by_name=True)
    name: str = Field(alias="class")
    probability: float
    top: list[Class]
    labels: list[Class] | None = Field(
        None, description="the classes that the photo has; only where it may have several"
    )
    unknown: bool | None = Field(
        None, description="whether the model is too unsure to answer; only with --coverage"
    )
    width: int = Field(description="of the sent photo, in pixels")
    height: int
    glimpses: int = Field(description="taken; 0 if the glance was enough")
    path: list[Glimpse] = Field(description="where it looked, in order")
    gmacs: float = Field(description="billions of multiply-accumulates that it took")
    picture: str | None = Field(None, description="PNG as base64, if it was asked for")


class Refusal(BaseModel):
    error: str


PHOTO = {
    "required": True,
    "content": {
        "image/*": {"schema": {"type": "string", "format": "binary"}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"photo": {"type": "string", "format": "binary"}},
                "required": ["photo"],
            }
        },
    },
}


REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Refusal, "description": "not a photo that can be read"},
    413: {"model": Refusal, "description": "too many bytes or pixels"},
    429: {"model": Refusal, "description": "too many photos from this client"},
    503: {"model": Refusal, "description": "busy, or no answer within the time limit"},
}


def answer_of(row: Row, size: tuple[int, int], gmacs: float) -> dict[str, Any]:
    """The JSON of an answer. size: (height, width) of the sent photo."""
    height, width = size
    sides = (width, height, width, height)
    answer: dict[str, Any] = {
        "class": row.top[0][0],
        "probability": row.top[0][1],
        "top": classes_of(row.top),
        **({} if row.labels is None else {"labels": classes_of(row.labels)}),
        "width": width,
        "height": height,
        "glimpses": row.glimpses,
        "path": [
            {
                "location": location,
                "boxes": [
                    [round(part * side, 2) for part, side in zip(box, sides, strict=True)]
                    for box in boxes
                ],
            }
            for location, boxes in zip(row.locations, row.boxes, strict=True)
        ],
        "gmacs": float(f"{gmacs:.4g}"),
    }
    return answer if row.unknown is None else answer | {"unknown": row.unknown}


def classes_of(pairs: Iterable[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{"class": name, "probability": each} for name, each in pairs]
