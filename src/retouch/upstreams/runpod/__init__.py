"""RunPod's public endpoints and an operator's own."""
