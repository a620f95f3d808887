"""The process that leases jobs and drives one engine: stage in, step, stage out. It answers no HTTP."""
