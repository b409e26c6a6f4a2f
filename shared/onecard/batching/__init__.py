"""From texts of requests to batches on the device."""
