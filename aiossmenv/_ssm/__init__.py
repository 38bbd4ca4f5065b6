"""Reading Parameter Store."""
