"""Trajectories on disk: one typed record a conversation, Parquet shards, token masks, importers.

with Writer("trajectories") as writer: writer.add(record)
for record in read("trajectories"): tokens = tokenise(record, vocabulary)

See docs/data.md. pyarrow (extra `train`) is needed by `rows` and `store` only.
"""
