"""Dynamic batching: joins the texts of concurrent requests into batches for the device.

`queue`, `sequence_packing`, `batch_limit` and `admission` are pure and decide what runs next; `worker` is the loop of
the thread that owns the model; `batcher` is the async interface for a service's routes.
"""
