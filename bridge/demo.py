"""The handlers and the filter of the shipped configurations, and of `make run`."""

import os
from logging import getLogger

from pydantic import BaseModel

from scheduler import JobContext, on
from scheduler.job import Job


class Order(BaseModel):
    id: int
    amount: float


def place_order(order: Order, context: JobContext) -> None:
    """Write the order to `orders.log` in the working directory: an effect outside the database, to count by."""
    line = f"{context.job.correlation_id} {order.amount:.2f} pid={os.getpid()} attempt={context.job.attempt}\n"
    with open("orders.log", "a") as file:
        file.write(line)
    context.log.debug("placed order %d", order.id)


def tick(context: JobContext) -> None:
    """Write a line to `ticks.log`, for a job that runs at times of its own."""
    with open("ticks.log", "a") as file:
        file.write(f"{context.job.correlation_id}\n")


@on("failed")
def tell(job: Job, error: BaseException) -> None:
    """Where you would call somebody."""
    getLogger("jobbridge.demo").error("order %s was not placed: %s", job.correlation_id, error)
