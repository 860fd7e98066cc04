"""Import paths of the Unpod SDK: see docs/reference/compatibility.md."""
