"""The whole of Onecard on one machine: models fetched, processes started, watched and stopped, a demonstration."""
