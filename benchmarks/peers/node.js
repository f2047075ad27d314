// Node's dgram.
'use strict';
const dgram = require('node:dgram');
const socket = dgram.createSocket('udp4');
const [mode, ...rest] = process.argv.slice(2);
const elapsed = (start) => Number(process.hrtime.bigint() - start) / 1e9;

if (mode === 'bulk') {
  const port = Number(rest[0]);
  const seconds = Number(rest[1]);
  const payload = Buffer.alloc(1200, 'x');
  let count = 0;
  const start = process.hrtime.bigint();
  // A thousand under way at a time, as its send queue wants it.
  const batch = () => {
    let left = 1000;
    const done = () => {
      if (--left > 0) return;
      count += 1000;
      if (elapsed(start) < seconds) return setImmediate(batch);
      console.log(`${count} ${elapsed(start)}`);
      socket.close();
    };
    for (let i = 0; i < 1000; i++) socket.send(payload, port, '127.0.0.1', done);
  };
  batch();
} else {
  let count = -1;
  let start;
  if (mode === 'echo') {
    socket.on('message', (message, peer) => socket.send(message, peer.port, peer.address));
  } else {
    const seconds = Number(rest[0]);
    socket.on('message', () => {
      if (++count === 0) start = process.hrtime.bigint();
      else if (count % 64 === 0 && elapsed(start) >= seconds) {
        console.log(`${count} ${elapsed(start)}`);
        process.exit();
      }
    });
  }
  socket.bind(0, '127.0.0.1', () => console.log(socket.address().port));
}
