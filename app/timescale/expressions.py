"""SQL expressions of a declaration, read far enough to know which columns they stand on."""

from __future__ import annotations

from collections.abc import Mapping


class ExpressionError(Exception):
    """It isn't one SQL expression."""


def find_columns(expression: str) -> set[str]:
    """The columns that an expression names. Raises ExpressionError."""
    # Only tables with an aggregate need it, and importing it takes a third of a second.
    import sqlglot  # noqa: PLC0415 - as said
    from sqlglot import exp  # noqa: PLC0415 - as said

    try:
        statements = sqlglot.parse(f"SELECT {expression}", dialect="postgres")
    except sqlglot.errors.SqlglotError as error:
        raise ExpressionError(str(error).splitlines()[0]) from error
    first = statements[0]
    if len(statements) != 1 or not isinstance(first, exp.Select) or len(first.expressions) != 1:
        raise ExpressionError("it must be one expression, such as avg(value)")
    if any(value for name, value in first.args.items() if name != "expressions"):
        raise ExpressionError("it must be an expression alone, without FROM or any other clause")
    return {column.name for column in first.find_all(exp.Column)}


def rename_in_expression(expression: str, names: Mapping[str, str]) -> str:
    """The same expression with the new names of columns, and otherwise as it was written."""
    if not names or not names.keys() & find_columns(expression):
        return expression
    import sqlglot  # noqa: PLC0415 - as above

    tokens = sqlglot.tokenize(expression, read="postgres")
    for token, following in reversed(list(zip(tokens, [*tokens[1:], None], strict=True))):
        is_function = following is not None and following.text == "("
        if token.text in names and token.token_type.name in {"VAR", "IDENTIFIER"} and not is_function:
            quote = '"' if expression[token.start] == '"' else ""
            expression = f"{expression[: token.start]}{quote}{names[token.text]}{quote}{expression[token.end + 1 :]}"
    return expression


def quote_term(term: str) -> str:
    """A term such as "user DESC", whose column is quoted: it may be called like a word of SQL's own."""
    column, _, order = term.partition(" ")
    return f'"{column}" {order}'.strip()


def find_assigned(statement: str) -> set[str]:
    """The columns that an UPDATE sets; none of any other statement, or of one that can't be read."""
    import sqlglot  # noqa: PLC0415 - as above
    from sqlglot import exp  # noqa: PLC0415 - as above

    try:
        update = sqlglot.parse_one(statement, dialect="postgres")
    except sqlglot.errors.SqlglotError:
        return set()
    if not isinstance(update, exp.Update):
        return set()
    return {column.name for each in update.expressions for column in each.this.find_all(exp.Column)}
