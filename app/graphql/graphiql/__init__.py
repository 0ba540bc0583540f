"""GraphiQL, the page for trying queries, from this service alone: nothing of it is loaded from anywhere else.

Its scripts are those of npm, which `invoke graphiql` brings; they are checked, and are not in the repository.
"""
