// The client `graphql-sse`, one connection for each operation, over one that breaks: it asks again by itself, from its last cursor.
//
//     with_graphql_sse.mjs URL CURSOR
import { createClient } from 'graphql-sse';

const [url, cursor] = process.argv.slice(2);
const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
let connections = 0;

const client = createClient({
  url,
  retryAttempts: 20,
  retry: () => new Promise((resolve) => setTimeout(resolve, 50)),
});

for await (const answer of client.iterate({
  query: 'query ($id: ID!) { machine(machineId: $id) { machineId } }',
  variables: { id: 'PRESS-1' },
})) {
  say(answer.data);
}

// The client sends this object each time it connects; what `after` is then is where it goes on.
const request = {
  query: 'subscription ($after: String) { measurements(after: $after) { cursor dropped measurements { machineId timestamp metrics } } }',
  variables: { after: cursor },
};
for await (const { data } of client.iterate(request, { connected: () => (connections += 1) })) {
  request.variables.after = data.measurements.cursor;
  say({ connections, ...data.measurements });
  if (data.measurements.measurements.some(({ metrics }) => metrics.rpm === 3)) break;
}
client.dispose();
