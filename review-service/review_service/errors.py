"""Errors of this service's own."""

from onecard.errors import OnecardError


class RestaurantNotFound(OnecardError):
    """No review of this restaurant is stored."""

    status, type, code = 404, "invalid_request_error", "restaurant_not_found"


class StoreDamaged(OnecardError):
    """The stored reviews cannot be read or written; what lies on disk is left as it is."""

    status, type, code = 503, "server_error", "store_damaged"
