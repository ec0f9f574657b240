"""What jobs run. The annotation of a handler's first parameter says what a message's body must be."""

from pydantic import BaseModel


class Order(BaseModel):
    id: int
    amount: float


def place_order(order: Order) -> None:
    print(f"order {order.id}: {order.amount:.2f}", flush=True)
