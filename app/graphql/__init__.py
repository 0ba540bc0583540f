"""The GraphQL API: the one room that knows strawberry. Resolvers translate; what they call lives in the other rooms."""
