// The client `graphql-ws` over a WebSocket that breaks: it connects again by itself, and goes on from its last cursor.
//
//     with_graphql_ws.mjs URL CURSOR
import { createClient } from 'graphql-ws';

const [url, cursor] = process.argv.slice(2);
const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
let connections = 0;

const client = createClient({
  url: url.replace('http', 'ws'),
  shouldRetry: () => true, // a connection that breaks is an error to Node, and no closing
  retryAttempts: 20,
  retryWait: () => new Promise((resolve) => setTimeout(resolve, 50)),
  on: { connected: () => (connections += 1) },
});

const ask = (query, variables) =>
  new Promise((resolve) => {
    const answers = [];
    client.subscribe(
      { query, variables },
      {
        next: (answer) => answers.push(answer),
        error: (errors) => resolve({ errors: errors.map((each) => each.extensions.code) }),
        complete: () => resolve(answers),
      },
    );
  });

say(await ask('query ($id: ID!) { machine(machineId: $id) { machineId } }', { id: 'PRESS-1' }));
say(await ask('mutation { retireMachine(machineId: "PRESS-1") { operational } }'));
say(await ask('{ nothing }'));

// The client sends this object each time it connects; what `after` is then is where it goes on.
const request = {
  query: 'subscription ($after: String) { measurements(after: $after) { cursor dropped measurements { machineId timestamp metrics } } }',
  variables: { after: cursor },
};
for await (const { data } of client.iterate(request)) {
  request.variables.after = data.measurements.cursor;
  say({ connections, ...data.measurements });
  if (data.measurements.measurements.some(({ metrics }) => metrics.rpm === 3)) break;
}
await client.dispose();
