"""HTTP/1 and HTTP/2 on a connection: uvicorn's protocols over zttp, with the limits that a public server needs.

Requests as ASGI applications see them are `onecard.web`.
"""
