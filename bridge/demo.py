"""The handler of the shipped configuration and of `make run`."""

import os

from pydantic import BaseModel

from scheduler.handlers import JobContext


class Order(BaseModel):
    id: int
    amount: float


def place_order(order: Order, context: JobContext) -> None:
    """Write the order to `orders.log` in the working directory: an effect outside the database, to count by."""
    line = f"{context.job.correlation_id} {order.amount:.2f} pid={os.getpid()} attempt={context.job.attempt}\n"
    with open("orders.log", "a") as file:
        file.write(line)
    context.log.debug("placed order %d", order.id)
