"""What is wrong with a request, in words of ours."""

import pytest
from fastapi.exceptions import RequestValidationError

from onecard.errors import InvalidRequest, _validation_error

FIELD = {"loc": ("body", "prompt", "str"), "msg": "Input should be a valid string"}


@pytest.mark.parametrize(
    ("errors", "param", "message"),
    [
        ([FIELD], "prompt", "'prompt': Input should be a valid string."),
        (
            [FIELD, {"loc": ("body", "prompt", "list"), "msg": "Input should be a valid list"}],
            "prompt",
            "'prompt': Input should be a valid string / Input should be a valid list.",
        ),
        ([{"loc": ("body",), "msg": "Field required"}], None, "The body: Field required."),
        (["Only one of 'a' and 'b' is allowed"], None, "Only one of 'a' and 'b' is allowed"),
    ],
    ids=["field", "union", "body", "text"],
)
def test_the_first_fault_of_a_body_is_told(errors: list[object], param: str | None, message: str) -> None:
    """By its field if it has one. vLLM's own checks give a text in place of an object."""
    error = _validation_error(RequestValidationError(errors))
    assert type(error) is InvalidRequest
    assert (error.detail, error.param) == (message, param)
