"""What one call does: what happens to it goes in, what is to be done comes out. Pure, and no `await` in it."""
