"""The kinds of questions about a synthetic video, by name. Light: the command line offers them."""

FAMILIES = ("which", "first", "count", "order")
