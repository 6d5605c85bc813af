// Print trades and best prices; after every interruption go on where it was, with nothing missing or twice.
// Runs in a browser as it is, and in node 22 (node 20: node --experimental-websocket).
const url = globalThis.process?.argv[2] ?? "ws://127.0.0.1:9001/v1";
const wishes = { id: 1, kinds: ["trade", "l1"], symbols: ["BTC-*"] };
const cursors = {};

function follow() {
  const socket = new WebSocket(url);
  socket.onopen = () => {
    const known = Object.keys(cursors).length > 0;
    const begin = known ? { op: "resume", cursors } : { op: "subscribe" };
    socket.send(JSON.stringify({ ...begin, ...wishes }));
  };
  socket.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    if (message.event) {
      const { kind, symbol, price } = message.event;
      const cut = message.cursor.lastIndexOf("/");
      // A state is told again; an event is not.
      if (!message.snapshot) cursors[message.cursor.slice(0, cut)] = message.cursor.slice(cut + 1);
      console.log(message.cursor, kind, symbol, price);
    } else if (message.skipped || message.rollback || message.op === "error") {
      console.error(data);
      for (const [stream, span] of Object.entries(message.rollback ?? {})) cursors[stream] = span.after;
    }
    Object.assign(cursors, message.live ?? message.cursors); // all up to these has been told
  };
  const again = () => {
    socket.onclose = socket.onerror = null; // browsers raise both, node 20 only the second
    setTimeout(follow, 500);
  };
  socket.onclose = socket.onerror = again;
}
follow();
