"""NATS and JetStream: the only package that imports `nats`."""
