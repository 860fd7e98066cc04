"""What tests need instead of the outside world; public, for users' tests too."""
