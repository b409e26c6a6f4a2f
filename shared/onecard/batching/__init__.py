"""From texts of requests to batches on the device.

`queue`, `rows`, `budget` and `admission` are pure and say what runs next; `worker` is the thread that owns the model;
`batcher` is what a service's routes talk to.
"""
