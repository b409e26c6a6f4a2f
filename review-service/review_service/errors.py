"""Errors that only this service has."""

from onecard.errors import OnecardError


class RestaurantNotFound(OnecardError):
    """No review of this restaurant is stored."""

    status, type, code = 404, "invalid_request_error", "restaurant_not_found"


class ReviewNotFound(OnecardError):
    """No review with this id is stored."""

    status, type, code = 404, "invalid_request_error", "review_not_found"


class StoreDamaged(OnecardError):
    """The stored reviews cannot be read or written. The files are not changed."""

    status, type, code = 503, "server_error", "store_damaged"


class StoreNotWritable(OnecardError):
    """The stored reviews can be read but not written: the disk is full or read-only."""

    status, type, code = 507, "server_error", "store_refuses"
