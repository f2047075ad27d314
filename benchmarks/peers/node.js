// Node's dgram.
'use strict';
const dgram = require('node:dgram');
const { setTimeout: sleep } = require('node:timers/promises');

const socket = dgram.createSocket('udp4');
const seconds = (from) => Number(process.hrtime.bigint() - from) / 1e9;
const bind = () => socket.bind(0, '127.0.0.1', () => console.log(socket.address().port));

function echo() {
  socket.on('message', (message, peer) => socket.send(message, peer.port, peer.address));
  bind();
}

async function flood(warmUp, lasting) {
  let count = 0;
  socket.on('message', () => { count += 1; });
  bind();
  while (!count) await sleep(10);
  await sleep(1000 * warmUp);
  const before = count;
  const start = process.hrtime.bigint();
  await sleep(1000 * lasting);
  console.log(`${count - before} ${seconds(start)}`);
  process.exit();
}

async function bulk(port, warmUp, lasting) {
  const payload = Buffer.alloc(1200);
  // A thousand under way at a time, which is how its send queue is quickest.
  const batch = () => new Promise((resolve) => {
    let left = 1000;
    const done = () => { if (--left === 0) resolve(); };
    for (let i = 0; i < 1000; i++) socket.send(payload, port, '127.0.0.1', done);
  });
  for (const start = process.hrtime.bigint(); seconds(start) < warmUp;) await batch();
  let count = 0;
  const start = process.hrtime.bigint();
  while (seconds(start) < lasting) {
    await batch();
    count += 1000;
  }
  console.log(`${count} ${seconds(start)}`);
  socket.close();
}

const [work, ...numbers] = process.argv.slice(2);
({ echo, flood, bulk })[work](...numbers.map(Number));
