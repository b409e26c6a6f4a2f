"""Onecard on RunPod: renting, watching and stopping a pod."""
