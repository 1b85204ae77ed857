"""What stands between the tags of a call: one file for each grammar."""
