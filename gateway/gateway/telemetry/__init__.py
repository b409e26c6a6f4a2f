"""What is measured of requests and services: metrics, traces, token counts, and the tap that sees each response pass.
Not in here: log lines, which are written where things happen, and decisions, which nothing in this package takes."""
