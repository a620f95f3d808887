"""The RunPod protocol."""
