"""What an order looks like: the schema of the stream `orders`."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field, model_validator


class Line(BaseModel):
    """One article of an order."""

    article: str = Field(min_length=1)
    quantity: int = Field(ge=1)
    price: float = Field(ge=0)


class Order(BaseModel):
    """An order as the shop sends it."""

    order_id: str = Field(min_length=1, max_length=64)
    placed_at: datetime
    customer: str
    country: str = Field(pattern="^[A-Z]{2}$")
    status: Literal["placed", "paid", "cancelled"] = "placed"
    total: float = Field(ge=0)
    lines: list[Line] = Field(min_length=1)

    @model_validator(mode="after")
    def _adds_up(self) -> Order:
        if abs(sum(line.quantity * line.price for line in self.lines) - self.total) > 0.01:
            raise ValueError("total is not the sum of the lines")
        return self
