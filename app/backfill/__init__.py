"""Loads files of readings: `layout` says what the columns are, `csv_file` and `parquet_file` read rows, `loader` has them
checked and committed batch by batch, `progress` remembers how far that went, `refused` keeps the rows that were refused."""
