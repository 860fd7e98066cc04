"""What an adapter has to be, under the Unpod SDK's import path."""

from unpod.adapters.protocol import DialogAdapter

__all__ = ["DialogAdapter"]
