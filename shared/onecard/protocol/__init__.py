"""What speaks HTTP on a connection: uvicorn's protocols over zttp, with the limits that a public server needs."""
