"""Errors of this service's own."""

from onecard.errors import OnecardError


class RestaurantNotFound(OnecardError):
    """No review of this restaurant is stored."""

    status, type, code = 404, "invalid_request_error", "restaurant_not_found"


class StoreDamaged(OnecardError):
    """The stored reviews cannot be read or written; what lies on disk is left as it is."""

    status, type, code = 503, "server_error", "store_damaged"


class StoreNotWritable(OnecardError):
    """The stored reviews can be read, and the system lets nothing be written: the disk is full, or read-only."""

    status, type, code = 507, "server_error", "store_refuses"
