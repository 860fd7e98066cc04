"""`unpod dev`: the whole stack around the user's own file, and a conversation in the terminal."""
