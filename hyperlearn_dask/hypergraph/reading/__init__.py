"""Raw tables as they come: parts of files, batches of columns, cells, ids, the hyperedges of rows."""
