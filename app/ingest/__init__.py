"""Takes readings in: `message` checks them, `endpoint` receives them, `writer` commits them."""
