"""What is measured of requests and services: metrics, traces, token counts, and the tap on each response.

Not in here: log lines, which are written where things happen, and any decision.
"""
