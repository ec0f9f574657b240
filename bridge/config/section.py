"""What every part of the configuration is made of."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False, serialize_by_alias=True
    )


def printable_name(value: str) -> str:
    if not value.isprintable() or len(value) > 200:
        raise PydanticCustomError("bad-name", "a name has 1 to 200 printable characters")
    return value


Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(min_length=1), AfterValidator(printable_name)]
