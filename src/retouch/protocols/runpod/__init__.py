"""The RunPod endpoint protocol: serverless jobs under `/v2/{endpoint}/`."""
