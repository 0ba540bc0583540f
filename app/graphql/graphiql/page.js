// What is typed here is sent to the address that this page came from, over WebSocket where it is a subscription. Headers go
// with both.
const url = new URL(location.pathname, location.origin);
const subscriptionUrl = new URL(url);
subscriptionUrl.protocol = url.protocol.replace("http", "ws");
const fetcher = GraphiQL.createFetcher({ url: url.href, subscriptionUrl: subscriptionUrl.href });

// GraphiQL keeps the history of queries in the browser with the headers they were sent with, and a key is not to stay there.
const HISTORIES = new Set(["graphiql:queries", "graphiql:favorites"]);
const withoutHeaders = (name, value) => (name === "headers" ? undefined : value);
const storage = {
  get length() {
    return localStorage.length;
  },
  getItem: (name) => localStorage.getItem(name),
  setItem: (name, text) =>
    localStorage.setItem(name, HISTORIES.has(name) ? JSON.stringify(JSON.parse(text), withoutHeaders) : text),
  removeItem: (name) => localStorage.removeItem(name),
  clear: () => localStorage.clear(),
};
ReactDOM.createRoot(document.getElementById("graphiql")).render(React.createElement(GraphiQL, { fetcher, storage }));
