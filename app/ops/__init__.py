"""What operators see of the service: whether it's healthy, how it answers when it isn't, and backups that can be restored.

health      whether the service is alive and ready
metrics     what the rooms have counted, for Prometheus
requests    how requests over HTTP went
traces      spans for OpenTelemetry
logs        the form of the log, and what must not be in it
answers     errors as HTTP
backup      a dump and its manifest, of one moment
restore     a backup into an empty database, compared to the last row
contents    what a database holds, in a form that two databases can be compared by
manifest    what is known of a backup, and the seal on it
dump        the file that pg_dump writes, and whether it is whole
draft       a file on its way to be a backup
target      the database to restore into
script      pg_restore into psql
programs    which pg_dump, pg_restore and psql there are, and running them
session     a connection, and how to send a program where it went
"""
