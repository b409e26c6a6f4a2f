"""Onecard on RunPod: rents a pod, and stops it when it is idle."""
