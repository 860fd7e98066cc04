"""Where what was derived goes: the only importers of OpenTelemetry, the Prometheus client and storage."""
